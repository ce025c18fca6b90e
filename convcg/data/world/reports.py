"""What advertisers of the built-in world report of the purchases: late, wrongly, too little, too much and twice."""

import numpy as np
from numpy.typing import NDArray

from convcg.data.world.behaviour import Clicks, Happenings, Origin, concatenated, off_platform
from convcg.data.world.catalogue import Catalogue
from convcg.data.world.config import DAY_SECONDS, WorldConfig
from convcg.data.world.latent import Flags, Ints, Seconds, Stream, stream
from convcg.types import Action

_HOUR = 3600.0
_SOONEST = 10.0
_LATEST = 30 * DAY_SECONDS


def report(
    config: WorldConfig,
    catalogue: Catalogue,
    purchases: Happenings,
    clicks: Clicks,
    bought: Flags,
    block: int,
) -> tuple[Happenings, Ints]:
    """The conversions as they are reported; and for each the row of an earlier report whose event id it shares, or -1.

    `bought` says which clicks truly led to a purchase.
    """
    rng = stream(config, Stream.REPORTS, block)
    advertisers, pins = catalogue.advertisers, catalogue.pins
    lost = rng.random(len(purchases)) < advertisers.lost[pins.advertiser[purchases.pin]]
    invented = _invented(catalogue, clicks, bought, rng)
    reports = concatenated([purchases.take(np.flatnonzero(~lost)), invented])

    reports = reports.take(np.flatnonzero(reports.time < config.end_seconds))
    # Nobody buys what was sold out meanwhile.
    reports = reports.take(np.flatnonzero(pins.is_available(reports.pin, _day(config, reports))))
    twice = np.flatnonzero(advertisers.reports_twice[pins.advertiser[reports.pin]])
    same_id = np.where(rng.random(len(twice)) < config.shared_event_ids, twice, -1)
    swapped = np.flatnonzero(rng.random(len(reports)) < config.label_noise)
    reports.pin[swapped] = _random_pins(config, catalogue, reports.take(swapped), rng)
    everything = concatenated([reports, reports.take(twice)])
    everything.reported[:] = everything.time + _delays(config, len(everything), rng)
    return everything, np.concatenate([np.full(len(reports), -1), same_id])


def _invented(catalogue: Catalogue, clicks: Clicks, bought: Flags, rng: np.random.Generator) -> Happenings:
    """Checkouts that over-reporting advertisers claim for clicks that led to none, hours after the click."""
    clicked = clicks.happenings
    chance = catalogue.advertisers.invented[catalogue.pins.advertiser[clicked.pin]]
    rows = np.flatnonzero((rng.random(len(chance)) < chance) & ~bought)
    time = clicked.time[rows] + _HOUR * rng.lognormal(1.0, 1.0, len(rows))
    origin: NDArray[np.int64] = np.full(len(rows), Origin.INVENTED)
    return off_platform(Action.CHECKOUT, time, clicked.user[rows], clicked.pin[rows], origin)


def _random_pins(config: WorldConfig, catalogue: Catalogue, reports: Happenings, rng: np.random.Generator) -> Ints:
    """One pin for each report, uniform among those available at its time; its own where a few tries find none."""
    tries = np.concatenate([rng.integers(config.num_pins, size=(len(reports), 16)), reports.pin[:, None]], axis=1)
    available = catalogue.pins.is_available(tries, _day(config, reports)[:, None])
    pins: Ints = np.take_along_axis(tries, np.argmax(available, axis=1)[:, None], axis=1)[:, 0]
    return pins


def _day(config: WorldConfig, reports: Happenings) -> NDArray[np.int16]:
    day: NDArray[np.int16] = ((reports.time - config.start_seconds) / DAY_SECONDS).astype(np.int16)
    return day


def _delays(config: WorldConfig, count: int, rng: np.random.Generator) -> Seconds:
    """Seconds from conversions to their reports: evenly in log time within the hour and the day, then a tail."""
    when, within = rng.random((2, count))
    in_hour = _SOONEST * (_HOUR / _SOONEST) ** within
    in_day = _HOUR * (DAY_SECONDS / _HOUR) ** within
    later = DAY_SECONDS * (1 + rng.exponential(config.report_tail_days, count))
    delay = np.where(when < config.reported_in_hour, in_hour, np.where(when < config.reported_in_day, in_day, later))
    seconds: Seconds = np.minimum(delay, _LATEST)
    return seconds
