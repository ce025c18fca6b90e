"""What happens in the built-in world: sessions, served slates, clicks, dwell, repins, purchases and their reports.

The three facts of shopping conversions are planted: purchases are sparse against clicks, noisy (the pin bought is often
another of the clicked pin's advertiser) and delayed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcg.data.world_model import INTERESTS_PER_USER, Floats, Ints, Pins, Users, WorldConfig, normal, unit
from convcg.types import ACTION_CODE, SURFACES, Action, Surface

_SURFACE_SHARES = (0.45, 0.3, 0.25)
_RELATED = SURFACES.index(Surface.RELATED_PINS)
_SCORES_AT_ONCE = 1 << 22
_HOUR = 3600.0
_SHORTEST_WAIT = np.float32(1e-30)  # float32 draws can be 0, whose logarithm is not finite
_LATEST_REPORT = 30 * 24 * _HOUR

Seconds = NDArray[np.float64]
Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """One request a row, in the order of time."""

    user: Ints
    surface: Ints
    time: Seconds  # since the epoch
    subject: Ints  # the pin looked at on related pins, -1 elsewhere
    intent: Floats  # [session, dim], unit length: what the person wants here and now


@dataclass(frozen=True, slots=True, kw_only=True)
class Happenings:
    """Actions, one a row. `session` is -1 for conversions: they happen off the platform."""

    time: Seconds  # since the epoch
    user: Ints
    pin: Ints
    action: Ints  # code of `convcg.types.Action`
    session: Ints
    dwell: Floats  # seconds, NaN but for clicks
    reported: Seconds  # since the epoch, NaN but for conversions

    def take(self, rows: Ints) -> "Happenings":
        """The given rows, in the given order."""
        return Happenings(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


def draw_sessions(config: WorldConfig, pins: Pins, users: Users, rng: np.random.Generator) -> Sessions:
    """Who asks when, where and for what."""
    count = max(1, rng.poisson(config.num_users * config.sessions_per_user))
    progress = np.sort(rng.random(count) ** (1 / (1 + config.growth)))
    user = rng.choice(config.num_users, count, p=users.activity)
    surface = rng.choice(len(SURFACES), count, p=_SURFACE_SHARES)
    interest = rng.integers(INTERESTS_PER_USER, size=count)
    wanted = users.interest_at(user, interest, progress.astype(np.float32))
    intent = unit(wanted + 0.5 * unit(normal(rng, *wanted.shape)))
    subject = np.full(count, -1)
    related = np.flatnonzero(surface == _RELATED)
    for rows in _blocks(len(related), config.num_pins):
        scores = intent[related[rows]] @ pins.latent.T * 14
        subject[related[rows]] = _sample_pins(scores, 1, rng)[:, 0]
    intent[related] = unit(intent[related] + pins.latent[subject[related]])
    time = config.start_seconds + progress * (config.end_seconds - config.start_seconds)
    return Sessions(user=user, surface=surface, time=time, subject=subject, intent=intent)


def _blocks(count: int, num_pins: int) -> Iterator[slice]:
    """Slices of `count` rows, so that the scores of a slice against all pins fit comfortably in memory."""
    rows = max(1, _SCORES_AT_ONCE // num_pins)
    for start in range(0, count, rows):
        yield slice(start, start + rows)


def _sample_pins(scores: Floats, count: int, rng: np.random.Generator) -> Ints:
    """`count` different pins a row, drawn with probability proportional to exp(score): [row, count]."""
    waits = np.maximum(rng.standard_exponential(scores.shape, dtype=np.float32), _SHORTEST_WAIT)
    noisy = scores - np.log(waits)
    return np.argpartition(noisy, -count, axis=1)[:, -count:]


def serve(
    config: WorldConfig, pins: Pins, users: Users, sessions: Sessions, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """The logging policy: (session, pin) of each impression.

    It sees a noisy intent, pushes advertisers with budget, and fills a share of the slots uniformly. Pins that are out
    of stock, or not eligible on the surface or in the country, are never served.
    """
    slots = config.pins_per_session
    served = []
    for rows in _blocks(len(sessions.user), config.num_pins):
        intent, surface = sessions.intent[rows], sessions.surface[rows]
        ships = pins.ships_to[pins.advertiser].T[users.country[sessions.user[rows]]]
        eligible = ships & pins.on_surface.T[surface] & pins.in_stock
        looked_at = np.flatnonzero(sessions.subject[rows] >= 0)
        eligible[looked_at, sessions.subject[rows][looked_at]] = False
        guess = unit(intent + 0.6 * unit(normal(rng, *intent.shape)))
        scores = 7 * (guess @ pins.visual.T) + pins.budget[pins.advertiser]
        slate = _sample_pins(np.where(eligible, scores, -np.inf), slots, rng)
        uniform = _sample_pins(np.where(eligible, np.float32(0), -np.inf).astype(np.float32), slots, rng)
        explored = rng.random(slate.shape) < config.exploration
        slate = np.where(explored, uniform, slate)
        row, slot = np.nonzero(np.take_along_axis(eligible, slate, axis=1))
        served.append(np.stack([rows.start + row, slate[row, slot]]))
    pairs = np.unique(np.concatenate(served, axis=1), axis=1)
    return pairs[0], pairs[1]


def browse(pins: Pins, sessions: Sessions, session: Ints, pin: Ints, rng: np.random.Generator) -> Happenings:
    """Impressions, and the clicks and repins on them: affinity and allure draw clicks, allure also bounces."""
    count = len(pin)
    affinity = np.einsum("nd,nd->n", sessions.intent[session], pins.latent[pin])
    shown = sessions.time[session] + rng.uniform(0.0, 5.0, count)
    clicked = rng.random(count) < _chance(4.0 * affinity + 0.8 * pins.allure[pin] - 2.7)
    repinned = rng.random(count) < _chance(4.0 * affinity - 5.2)
    bounced = rng.random(count) < _chance(0.8 * pins.allure[pin] - 4.0 * affinity + 0.8)
    log_dwell = np.where(bounced, np.log(3.0), np.log(25.0) + affinity) + 0.8 * normal(rng, count)
    parts = []
    for action, rows, dwell in (
        (Action.IMPRESSION, np.arange(count), None),
        (Action.CLICK, np.flatnonzero(clicked), np.exp(log_dwell)),
        (Action.REPIN, np.flatnonzero(repinned), None),
    ):
        after = 0.0 if action is Action.IMPRESSION else rng.uniform(1.0, 40.0, len(rows))
        parts.append(
            Happenings(
                time=shown[rows] + after,
                user=sessions.user[session[rows]],
                pin=pin[rows],
                action=np.full(len(rows), ACTION_CODE[action]),
                session=session[rows],
                dwell=np.full(len(rows), np.nan, np.float32) if dwell is None else dwell[rows].astype(np.float32),
                reported=np.full(len(rows), np.nan),
            )
        )
    return concatenated(parts)


def buy(
    config: WorldConfig, pins: Pins, users: Users, sessions: Sessions, browsed: Happenings, rng: np.random.Generator
) -> Happenings:
    """The carts and checkouts that follow the clicks, hours to days later, on the clicked pin or a sibling of it."""
    clicks = browsed.take(np.flatnonzero(browsed.action == ACTION_CODE[Action.CLICK]))
    intent = sessions.intent[clicks.session]
    affinity = np.einsum("nd,nd->n", intent, pins.latent[clicks.pin])
    misfit = (pins.expensive[clicks.pin] - users.purse[clicks.user]) ** 2
    stayed = np.log1p(np.minimum(clicks.dwell, 60.0)) - 3.0
    wish = 4.0 * affinity + 1.2 * pins.trust[pins.advertiser[clicks.pin]] - 1.5 * misfit + 1.2 * stayed
    buyers = np.flatnonzero(rng.random(len(clicks.pin)) < config.conversion_rate * _chance(wish))
    clicks = clicks.take(buyers)
    pin = _bought_pin(config, pins, intent[buyers], clicks.pin, rng)
    kind = rng.choice(3, len(pin), p=(0.4, 0.45, 0.15))  # cart alone, cart then checkout, checkout alone
    carted = clicks.time + _delay(4 * _HOUR, 1.6, len(pin), rng)
    bought = carted + np.where(kind == 1, _delay(1 * _HOUR, 1.6, len(pin), rng), 0.0)
    parts = []
    for action, time, rows in (
        (Action.ADD_TO_CART, carted, np.flatnonzero(kind <= 1)),
        (Action.CHECKOUT, bought, np.flatnonzero(kind >= 1)),
    ):
        waiting = _delay(config.report_delay_hours * _HOUR, 1.4, len(rows), rng)
        parts.append(
            Happenings(
                time=time[rows],
                user=clicks.user[rows],
                pin=pin[rows],
                action=np.full(len(rows), ACTION_CODE[action]),
                session=np.full(len(rows), -1),
                dwell=np.full(len(rows), np.nan, np.float32),
                reported=time[rows] + np.minimum(waiting, _LATEST_REPORT),
            )
        )
    return concatenated(parts)


def _bought_pin(config: WorldConfig, pins: Pins, intent: Floats, clicked: Ints, rng: np.random.Generator) -> Ints:
    """The clicked pin, or with chance `click_a_buy_b` another of its advertiser that suits the intent."""
    bought = clicked.copy()
    first = np.searchsorted(pins.advertiser, pins.advertiser[clicked], side="left")
    last = np.searchsorted(pins.advertiser, pins.advertiser[clicked], side="right")
    for row in np.flatnonzero(rng.random(len(clicked)) < config.click_a_buy_b):
        shelf = np.arange(first[row], last[row])
        siblings = shelf[pins.in_stock[shelf] & (shelf != clicked[row])]
        if len(siblings):
            scores = pins.latent[siblings] @ intent[row] * 8
            bought[row] = siblings[_sample_pins(scores[None, :], 1, rng)[0, 0]]
    return bought


def _delay(median: float, sigma: float, count: int, rng: np.random.Generator) -> Seconds:
    return median * rng.lognormal(0.0, sigma, count)


def _chance(logit: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-logit))


def concatenated(parts: list[Happenings]) -> Happenings:
    """The rows of all parts, one after the other."""
    columns = {column.name: [getattr(part, column.name) for part in parts] for column in fields(Happenings)}
    return Happenings(**{name: np.concatenate(values) for name, values in columns.items()})
