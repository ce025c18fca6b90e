"""The people of the built-in world, one block of them at a time."""

from dataclasses import dataclass

import numpy as np

from convcg.data.world.catalogue import COUNTRIES
from convcg.data.world.config import WorldConfig
from convcg.data.world.latent import CATEGORIES, Floats, Ints, Numbers, Stream, Words, astray, normal, stream, unit

COUNTRY_SHARES = (0.45, 0.15, 0.12, 0.12, 0.09, 0.07)
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55+")
AGE_SHARES = (0.2, 0.3, 0.2, 0.17, 0.13)
INTERESTS_PER_USER = 2
assert len(COUNTRY_SHARES) == len(COUNTRIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """One person a row. `interests` are where they start, `drift` where they move until the end of the log."""

    first_user: int  # the number in the whole world of the first row
    interests: Floats  # [user, interest, dim], unit length
    drift: Floats  # [user, interest, dim]
    country: Ints  # [user]
    age_band: Ints  # [user]
    purse: Floats  # [user], the `expensive` that suits them
    activity: Numbers  # [user], requests against the mean

    def __len__(self) -> int:
        return len(self.country)

    def interest_at(self, user: Ints, interest: Ints, progress: Floats) -> Floats:
        """Unit vectors, [row, dim], of the interests when the share `progress` of the log has passed."""
        return unit(self.interests[user, interest] + progress[:, None] * self.drift[user, interest])


def draw_people(config: WorldConfig, words: Words, block: int) -> People:
    """The people of one block, whose interests lean to the categories that their age band likes."""
    liking = stream(config, Stream.TASTES).gumbel(0.0, 1.5, (len(AGE_BANDS), 1, len(CATEGORIES)))
    rng = stream(config, Stream.PEOPLE, block)
    first_user = block * config.users_per_block
    num_users = min(config.users_per_block, config.num_users - first_user)
    age_band = rng.choice(len(AGE_BANDS), num_users, p=AGE_SHARES)
    taste = rng.gumbel(0.0, 1.0, (num_users, INTERESTS_PER_USER, len(CATEGORIES)))
    favourite = np.argmax(liking[age_band] + taste, axis=2)
    interests = astray(words.category[favourite], 0.9, rng)
    spread = config.activity_spread
    return People(
        first_user=first_user,
        interests=interests,
        drift=np.float32(config.interest_drift) * unit(normal(rng, *interests.shape)),
        country=rng.choice(len(COUNTRIES), num_users, p=COUNTRY_SHARES),
        age_band=age_band,
        purse=0.4 * normal(rng, num_users) + np.float32(0.15) * (age_band.astype(np.float32) - 2),
        activity=rng.lognormal(-(spread**2) / 2, spread, num_users),
    )
