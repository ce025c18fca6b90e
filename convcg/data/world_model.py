"""The built-in world's people and pins: its settings, and the latent quantities that its behaviour follows from.

People and pins live in one latent space of unit vectors. Nothing latent is written to the tables: what a model can
see of it are noisy views (`visual`, category, title, price) and behaviour.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from convcg.setting import Settings

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

CATEGORIES = ("lamps", "rugs", "sneakers", "dresses", "watches", "chairs", "tents", "mugs", "plants", "headphones")
STYLES = ("rustic", "minimal", "vintage", "bold", "pastel", "sporty", "luxury", "cozy")
COUNTRIES = ("US", "GB", "CA", "DE", "FR", "BR")
COUNTRY_SHARES = (0.45, 0.15, 0.12, 0.12, 0.09, 0.07)
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55+")
INTERESTS_PER_USER = 2


class WorldConfig(Settings):
    """The size and the temper of the built-in world. The defaults give about 230,000 events in seconds."""

    seed: int = Field(7, ge=0, description="The same seed gives the same tables; another seed another world.")
    num_users: int = Field(1500, ge=10, le=100_000, description="People in the users table.")
    num_pins: int = Field(3000, ge=50, le=100_000, description="Product pins in the catalogue.")
    num_advertisers: int = Field(120, ge=2, le=10_000, description="Advertisers that share the pins, unevenly.")
    num_days: int = Field(28, ge=2, le=365, description="Days that the log covers; what happens later is not in it.")
    start: date = Field(date(2025, 1, 6), ge=date(2000, 1, 1), description="First day of the log, from midnight UTC.")
    vector_dim: int = Field(16, ge=4, le=256, description="Length of the latents and of each pin's `visual` vector.")
    sessions_per_user: float = Field(11.0, gt=0, le=1000, description="Mean requests a person makes in the whole log.")
    pins_per_session: int = Field(10, ge=2, le=50, description="Slots of one served slate, each an impression.")
    growth: float = Field(
        0.25, ge=0, le=5, description="How traffic grows: its density is proportional to time^growth."
    )
    exploration: float = Field(0.3, ge=0, le=1, description="Share of slots filled uniformly instead of by affinity.")
    interest_drift: float = Field(0.5, ge=0, le=5, description="How far each interest moves by the end; 0 stays put.")
    visual_noise: float = Field(0.5, ge=0, le=10, description="Noise in `visual`, relative to the latent's length.")
    click_a_buy_b: float = Field(
        0.3, ge=0, le=1, description="Share of purchases that fall on another pin of the clicked pin's advertiser."
    )
    conversion_rate: float = Field(
        0.45, ge=0, le=1, description="Upper bound of the chance that a click leads to a purchase journey."
    )
    report_delay_hours: float = Field(
        24.0, gt=0, le=720, description="Median hours from a conversion to its report by the advertiser."
    )

    @property
    def start_seconds(self) -> float:
        """The start of the log in seconds since the epoch."""
        return datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC).timestamp()

    @property
    def end_seconds(self) -> float:
        """The end of the log, exclusive, in seconds since the epoch."""
        return self.start_seconds + self.num_days * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The catalogue. Rows are pins; `trust`, `budget` and `ships_to` are per advertiser and indexed by `advertiser`."""

    latent: Floats  # [pin, dim], unit length
    visual: Floats  # [pin, dim]
    advertiser: Ints  # [pin], ascending
    category: Ints  # [pin]
    style: Ints  # [pin]
    price: Floats  # [pin]
    expensive: Floats  # [pin], log price against the category's
    allure: Floats  # [pin], draws clicks without purchases
    in_stock: Flags  # [pin]
    on_surface: Flags  # [pin, surface]
    trust: Floats  # [advertiser]
    budget: Floats  # [advertiser], how hard its ads are pushed
    ships_to: Flags  # [advertiser, country]


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """The people. `interests` are where they start, `drift` where they move until the end of the log."""

    interests: Floats  # [user, interest, dim], unit length
    drift: Floats  # [user, interest, dim]
    country: Ints  # [user]
    age_band: Ints  # [user]
    purse: Floats  # [user], the `expensive` that suits them
    activity: NDArray[np.float64]  # [user], sums to 1

    def interest_at(self, user: Ints, interest: Ints, progress: Floats) -> Floats:
        """Unit vectors, [row, dim], of the interests when the share `progress` of the log has passed."""
        return unit(self.interests[user, interest] + progress[:, None] * self.drift[user, interest])


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The directions of the latent space that have names."""

    category: Floats  # [category, dim], unit length
    style: Floats  # [style, dim], unit length

    def category_of(self, latent: Floats) -> Ints:
        """The category nearest to each latent."""
        nearest: Ints = np.argmax(latent @ self.category.T, axis=1)
        return nearest

    def style_of(self, latent: Floats) -> Ints:
        """The style nearest to each latent."""
        nearest: Ints = np.argmax(latent @ self.style.T, axis=1)
        return nearest


def unit(vectors: Floats) -> Floats:
    """Vectors scaled to length 1 along the last axis."""
    scaled: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    """Standard normal draws, float32."""
    return rng.standard_normal(shape, dtype=np.float32)


def draw_words(config: WorldConfig, rng: np.random.Generator) -> Words:
    """The named directions of this world."""
    return Words(
        category=unit(normal(rng, len(CATEGORIES), config.vector_dim)),
        style=unit(normal(rng, len(STYLES), config.vector_dim)),
    )


def draw_pins(config: WorldConfig, words: Words, rng: np.random.Generator) -> Pins:
    """Advertisers around the categories, and their catalogues around them."""
    dim, num_pins, num_advertisers = config.vector_dim, config.num_pins, config.num_advertisers
    home = rng.integers(len(CATEGORIES), size=num_advertisers)
    centre = unit(words.category[home] + 0.7 * unit(normal(rng, num_advertisers, dim)))
    shares = rng.lognormal(0.0, 0.7, num_advertisers)
    advertiser = np.sort(rng.choice(num_advertisers, num_pins, p=shares / shares.sum()))
    latent = unit(centre[advertiser] + 0.6 * unit(normal(rng, num_pins, dim)))
    category = words.category_of(latent)
    expensive = 0.5 * normal(rng, num_pins)
    typical_log_price = rng.normal(3.5, 0.8, len(CATEGORIES)).astype(np.float32)
    on_surface = rng.random((num_pins, 3)) >= 0.05
    on_surface[~on_surface.any(axis=1)] = True
    ships_to = (rng.random((num_advertisers, len(COUNTRIES))) < 0.6) | (rng.random((num_advertisers, 1)) < 0.8)
    ships_to[~ships_to.any(axis=1)] = True
    return Pins(
        latent=latent,
        visual=latent + config.visual_noise * unit(normal(rng, num_pins, dim)),
        advertiser=advertiser,
        category=category,
        style=words.style_of(latent),
        price=np.exp(typical_log_price[category] + expensive).astype(np.float32).round(2),
        expensive=expensive,
        allure=normal(rng, num_pins),
        in_stock=rng.random(num_pins) >= 0.03,
        on_surface=on_surface,
        trust=normal(rng, num_advertisers),
        budget=0.7 * normal(rng, num_advertisers),
        ships_to=ships_to,
    )


def draw_users(config: WorldConfig, words: Words, rng: np.random.Generator) -> Users:
    """People whose interests lean to the categories that their age band likes."""
    num_users, dim = config.num_users, config.vector_dim
    age_band = rng.choice(len(AGE_BANDS), num_users, p=(0.2, 0.3, 0.2, 0.17, 0.13))
    liking = rng.gumbel(0.0, 1.5, (len(AGE_BANDS), 1, len(CATEGORIES)))
    taste = rng.gumbel(0.0, 1.0, (num_users, INTERESTS_PER_USER, len(CATEGORIES)))
    favourite = np.argmax(liking[age_band] + taste, axis=2)
    activity = rng.lognormal(0.0, 0.6, num_users)
    shape = (num_users, INTERESTS_PER_USER, dim)
    return Users(
        interests=unit(words.category[favourite] + 0.9 * unit(normal(rng, *shape))),
        drift=config.interest_drift * unit(normal(rng, *shape)),
        country=rng.choice(len(COUNTRIES), num_users, p=COUNTRY_SHARES),
        age_band=age_band,
        purse=0.4 * normal(rng, num_users) + np.float32(0.15) * (age_band.astype(np.float32) - 2),
        activity=activity / activity.sum(),
    )
