"""The requests of the built-in world: who asks when, on which surface, in which context, and what they want."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcg.data.world.catalogue import Catalogue
from convcg.data.world.config import DAY_SECONDS, WorldConfig
from convcg.data.world.latent import Floats, Ints, Seconds, Stream, astray, gumbel, stream, unit
from convcg.data.world.people import INTERESTS_PER_USER, People
from convcg.types import SURFACE_CODE, SURFACES, Surface

#: How strongly people look at, and buy unprompted, what is nearest to what they want.
NEARNESS = 14.0
RELATED_PINS = SURFACE_CODE[Surface.RELATED_PINS]
SEARCH = SURFACE_CODE[Surface.SEARCH]
ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """One request a row, in the order of time."""

    user: Ints  # row in the block's people
    surface: Ints  # code of `convcg.types.Surface`
    time: Seconds  # since the epoch
    day: NDArray[np.int16]  # of the log
    subject: Ints  # the pin looked at on related pins, -1 elsewhere
    intent: Floats  # [request, dim], unit length: what the person wants here and now
    is_vague: NDArray[np.bool_]  # whether a search query leaves the style out

    def __len__(self) -> int:
        return len(self.user)


def draw_requests(config: WorldConfig, catalogue: Catalogue, people: People, block: int) -> Requests:
    """The requests of one block of people; the first block has at least one."""
    rng = stream(config, Stream.REQUESTS, block)
    per_user = rng.poisson(config.sessions_per_user * people.activity)
    if block == 0 and not per_user.any():
        per_user[0] = 1
    user = np.repeat(np.arange(len(people)), per_user)
    count = len(user)
    progress = rng.random(count) ** (1 / (1 + config.growth))
    order = np.argsort(progress, kind="stable")
    user, progress = user[order], progress[order]
    surface = rng.choice(len(SURFACES), count, p=np.array(config.surface_shares) / sum(config.surface_shares))
    interest = rng.integers(INTERESTS_PER_USER, size=count)
    intent = astray(people.interest_at(user, interest, progress.astype(np.float32)), config.intent_noise, rng)
    is_vague = rng.random(count) < config.vague_queries
    day = np.minimum((progress * config.num_days).astype(np.int16), np.int16(config.num_days - 1))
    related = np.flatnonzero(surface == RELATED_PINS)
    subject = np.full(count, -1)
    subject[related] = pins_wanted(catalogue, intent[related], day[related], rng)
    surface[related[subject[related] < 0]] = SURFACE_CODE[Surface.HOME_FEED]
    related = np.flatnonzero(subject >= 0)
    intent[related] = beside(intent[related], catalogue.pins.latent[subject[related]])
    return Requests(
        user=user,
        surface=surface,
        time=config.start_seconds + progress * config.num_days * DAY_SECONDS,
        day=day,
        subject=subject,
        intent=intent,
        is_vague=is_vague,
    )


def beside(intent: Floats, subject: Floats) -> Floats:
    """What is wanted by those who look at a subject pin: halfway between their intent and the pin, [row, dim]."""
    return unit(intent + subject)


def pins_wanted(catalogue: Catalogue, intent: Floats, day: NDArray[np.int16], rng: np.random.Generator) -> Ints:
    """One pin for each intent, [row, dim], drawn among the available near it ~ exp(NEARNESS affinity).

    -1 where none is found.
    """
    pins = catalogue.pins
    drawn = np.full(len(intent), -1)
    for start in range(0, len(intent), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        near = catalogue.forest.near(intent[rows])
        score = np.float32(NEARNESS) * np.einsum("nd,ncd->nc", intent[rows], pins.latent[near])
        score += gumbel(rng, *near.shape)
        score[~pins.is_available(near, day[rows, None])] = -np.inf
        best = np.argmax(score, axis=1)[:, None]
        found = np.isfinite(np.take_along_axis(score, best, axis=1))
        drawn[rows] = np.where(found, np.take_along_axis(near, best, axis=1), -1)[:, 0]
    return drawn
