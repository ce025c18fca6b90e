"""What people of the built-in world do with the ads that they are served: click, stay or bounce, repin, buy.

The chances are functions of their own, which `oracle` uses, too.
"""

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from convcg.data.world.catalogue import Catalogue
from convcg.data.world.config import WorldConfig
from convcg.data.world.latent import Floats, Ints, Numbers, Seconds, Stream, dots, gumbel, normal, stream
from convcg.data.world.people import People
from convcg.data.world.requests import Requests, pins_wanted
from convcg.types import ACTION_CODE, Action

_HOUR = 3600.0
#: What shares of purchases are a cart alone, a cart that is checked out later, a checkout at once.
_KIND_SHARES = (0.4, 0.45, 0.15)
CHECKOUTS_PER_PURCHASE = sum(_KIND_SHARES[1:])
#: How many of a shelf's pins a person looks at who buys another than the clicked one, and how choosy they are.
BROWSED_SIBLINGS = 32
SIBLING_NEARNESS = 8.0


class Origin(IntEnum):
    """Where an event comes from. Not in the tables: it is what label noise hides."""

    PLATFORM = 0  # impression, click, repin
    CLICKED = 1  # a purchase of the clicked pin
    SIBLING = 2  # a purchase of another pin of its advertiser: click A, buy B
    ORGANIC = 3  # a purchase without an ad behind it
    INVENTED = 4  # a purchase that never was


@dataclass(frozen=True, slots=True, kw_only=True)
class Happenings:
    """Actions, one a row. `request` is -1 for conversions: they happen off the platform."""

    time: Seconds  # since the epoch
    user: Ints  # row in the block's people
    pin: Ints
    action: Ints  # code of `convcg.types.Action`
    request: Ints
    dwell: Floats  # seconds, NaN but for clicks
    reported: Seconds  # since the epoch, NaN but for conversions
    origin: NDArray[np.int8]  # code of `Origin`

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: Ints) -> "Happenings":
        """The given rows, in the given order."""
        return Happenings(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


def concatenated(parts: list[Happenings]) -> Happenings:
    """The rows of all parts, one after the other."""
    columns = {column.name: [getattr(part, column.name) for part in parts] for column in fields(Happenings)}
    return Happenings(**{name: np.concatenate(values) for name, values in columns.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Clicks:
    """The clicks of one block and what is true of them."""

    happenings: Happenings
    is_false: NDArray[np.bool_]  # nothing was wanted
    bounced: NDArray[np.bool_]
    wish: Numbers  # logit of buying


def click_chance(config: WorldConfig, affinity: Numbers, allure: Numbers) -> Numbers:
    """The chance that a pin is clicked because it is wanted."""
    return _chance(config.click_bias + config.affinity_weight * affinity + config.allure * allure)


def bounce_chance(config: WorldConfig, affinity: Numbers, allure: Numbers) -> Numbers:
    """The chance that such a click bounces: allure promised more than the pin holds."""
    return _chance(0.8 + config.allure * allure - config.affinity_weight * affinity)


def wish_to_buy(config: WorldConfig, affinity: Numbers, trust: Numbers, misfit: Numbers) -> Numbers:
    """The logit of buying, for those who stay: affinity, trust in the advertiser, and a price that suits."""
    wish: Numbers = config.affinity_weight * affinity + config.trust_weight * trust - config.price_weight * misfit**2
    return wish


def purchase_chance(config: WorldConfig, wish: Numbers) -> Numbers:
    """The chance that a click that stays leads to a purchase, of this pin or another of the advertiser."""
    chance: Numbers = config.conversion_rate * _chance(wish)
    return chance


def browse(
    config: WorldConfig,
    catalogue: Catalogue,
    people: People,
    requests: Requests,
    served: tuple[Ints, Ints],
    block: int,
) -> tuple[Happenings, Clicks]:
    """What happens on the platform, and its clicks again, with what is true of them."""
    rng = stream(config, Stream.BROWSING, block)
    request, pin = served
    count, pins = len(pin), catalogue.pins
    affinity = dots(requests.intent[request], pins.latent[pin])
    allure = pins.allure[pin]
    shown = requests.time[request] + rng.uniform(0.0, 5.0, count)
    wanted = rng.random(count) < click_chance(config, affinity, allure)
    by_mistake = rng.random(count) < config.false_clicks
    repinned = rng.random(count) < _chance(config.repin_bias + config.affinity_weight * affinity)
    clicked = np.flatnonzero(wanted | by_mistake)

    user = requests.user[request]
    is_false = ~wanted[clicked]
    bounced = is_false | (rng.random(len(clicked)) < bounce_chance(config, affinity[clicked], allure[clicked]))
    trust = catalogue.advertisers.trust[pins.advertiser[pin[clicked]]]
    misfit = pins.expensive[pin[clicked]] - people.purse[user[clicked]]
    wish = wish_to_buy(config, affinity[clicked], trust, misfit)
    stay = np.log(30.0) + config.dwell_signal * (2 * _chance(wish) - 1)
    dwell = np.exp(np.where(bounced, np.log(3.0), stay) + 0.8 * normal(rng, len(clicked)))

    def happenings(action: Action, rows: Ints, after: Numbers, dwell: Numbers | float) -> Happenings:
        return Happenings(
            time=shown[rows] + after,
            user=user[rows],
            pin=pin[rows],
            action=np.full(len(rows), ACTION_CODE[action]),
            request=request[rows],
            dwell=np.full(len(rows), dwell, np.float32),
            reported=np.full(len(rows), np.nan),
            origin=np.full(len(rows), Origin.PLATFORM, np.int8),
        )

    impressions = happenings(Action.IMPRESSION, np.arange(count), np.zeros(count), np.nan)
    clicks = happenings(Action.CLICK, clicked, rng.uniform(1.0, 40.0, len(clicked)), dwell)
    saved = np.flatnonzero(repinned)
    repins = happenings(Action.REPIN, saved, rng.uniform(1.0, 40.0, len(saved)), np.nan)
    everything = concatenated([impressions, clicks, repins])
    return everything, Clicks(happenings=clicks, is_false=is_false, bounced=bounced, wish=wish)


def buy(
    config: WorldConfig, catalogue: Catalogue, requests: Requests, clicks: Clicks, block: int
) -> tuple[Happenings, NDArray[np.bool_]]:
    """The carts and checkouts that truly happen, none of them reported yet; and which clicks led to one."""
    rng = stream(config, Stream.BUYING, block)
    bought = (rng.random(len(clicks.wish)) < purchase_chance(config, clicks.wish)) & ~clicks.bounced
    buyers = clicks.happenings.take(np.flatnonzero(bought))
    pin = _bought_pin(config, catalogue, requests, buyers, rng)
    origin = np.where(pin == buyers.pin, Origin.CLICKED, Origin.SIBLING)

    # Organic purchases come from what was wanted in some request, not from what was served.
    organic = rng.integers(max(1, len(requests)), size=rng.poisson(config.organic_purchases * len(pin)))
    wanted = pins_wanted(catalogue, requests.intent[organic], requests.day[organic], rng)
    organic, wanted = organic[wanted >= 0], wanted[wanted >= 0]
    user = np.concatenate([buyers.user, requests.user[organic]])
    decided = np.concatenate([buyers.time, requests.time[organic]])
    pin = np.concatenate([pin, wanted])
    origin = np.concatenate([origin, np.full(len(wanted), Origin.ORGANIC)])

    kind = rng.choice(len(_KIND_SHARES), len(pin), p=_KIND_SHARES)
    first = decided + _delay(config.purchase_delay_hours * _HOUR, len(pin), rng)
    second = first + np.where(kind == 1, _delay(1 * _HOUR, len(pin), rng), 0.0)
    parts = [
        off_platform(action, time[rows], user[rows], pin[rows], origin[rows])
        for action, time, rows in (
            (Action.ADD_TO_CART, first, np.flatnonzero(kind <= 1)),
            (Action.CHECKOUT, second, np.flatnonzero(kind >= 1)),
        )
    ]
    return concatenated(parts), bought


def off_platform(action: Action, time: Seconds, user: Ints, pin: Ints, origin: NDArray[np.integer]) -> Happenings:
    """Conversions that nobody has reported yet."""
    return Happenings(
        time=time,
        user=user,
        pin=pin,
        action=np.full(len(time), ACTION_CODE[action]),
        request=np.full(len(time), -1),
        dwell=np.full(len(time), np.nan, np.float32),
        reported=np.full(len(time), np.nan),
        origin=origin.astype(np.int8),
    )


def _bought_pin(
    config: WorldConfig, catalogue: Catalogue, requests: Requests, clicks: Happenings, rng: np.random.Generator
) -> Ints:
    """The clicked pin, or with chance `click_a_buy_b` one of its neighbours on the shelf that suits the intent."""
    bought = clicks.pin.copy()
    pins, shelf = catalogue.pins, catalogue.advertisers.shelf
    rows = np.flatnonzero(rng.random(len(bought)) < config.click_a_buy_b)
    clicked = clicks.pin[rows]
    first, size = shelf[pins.advertiser[clicked]], np.diff(shelf)[pins.advertiser[clicked]]
    # The others on the shelf form a circle, of which the person looks at an arc: each is as likely to be seen.
    others = np.maximum(size - 1, 1)[:, None]
    start = np.floor(rng.random((len(rows), 1)) * others).astype(np.int64)
    place = np.arange(BROWSED_SIBLINGS)
    sibling = first[:, None] + (clicked[:, None] - first[:, None] + 1 + (start + place) % others) % size[:, None]
    day = requests.day[clicks.request[rows], None]
    score = np.float32(SIBLING_NEARNESS) * np.einsum(
        "nd,ncd->nc", requests.intent[clicks.request[rows]], pins.latent[sibling]
    )
    score += gumbel(rng, *score.shape)
    score[~(pins.is_available(sibling, day) & (place < size[:, None] - 1))] = -np.inf
    best = np.argmax(score, axis=1)[:, None]
    found = np.isfinite(np.take_along_axis(score, best, axis=1))[:, 0]
    bought[rows[found]] = np.take_along_axis(sibling, best, axis=1)[found, 0]
    return bought


def _delay(median: float, count: int, rng: np.random.Generator) -> Seconds:
    return median * rng.lognormal(0.0, 1.6, count)


def _chance(logit: Numbers) -> Numbers:
    chance: Numbers = 1 / (1 + np.exp(-logit))
    return chance
