"""The logging policy of the built-in world: the ads that each request is served.

A bounded auction, whatever the size of the catalogue: among the ads near a noisy guess of the intent the nearest and
the best funded win; a share of the slots goes to ads drawn uniformly from the whole catalogue.
"""

import numpy as np
from numpy.typing import NDArray

from convcg.data.world.catalogue import Catalogue, needed_permits
from convcg.data.world.config import WorldConfig
from convcg.data.world.latent import Flags, Floats, Ints, Stream, astray, gumbel, stream
from convcg.data.world.people import People
from convcg.data.world.requests import ROWS_AT_ONCE, Requests

#: What a unit of affinity to the guess is worth in the auction, against the advertisers' budgets.
_RELEVANCE = 7.0


def serve(
    config: WorldConfig, catalogue: Catalogue, people: People, requests: Requests, block: int
) -> tuple[Ints, Ints]:
    """(request, pin) of each impression: up to `pins_per_session` different pins a request.

    Ads that do not exist yet, are sold out, or are not permitted on the surface or in the country are never served, nor
    is the subject pin beside itself.
    """
    rng = stream(config, Stream.POLICY, block)
    slots = config.pins_per_session
    needed = needed_permits(requests.surface, people.country[requests.user])
    served = []
    for start in range(0, len(requests), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        day, need, subject = requests.day[rows, None], needed[rows, None], requests.subject[rows, None]
        guess = guesses(config, requests.intent[rows], rng)
        near = catalogue.forest.near(guess)
        bids = auction(catalogue, guess, near, day, need, subject) + gumbel(rng, *near.shape)
        winners = _best(near, bids, min(2 * slots, near.shape[1]))
        uniform = rng.integers(config.num_pins, size=(len(guess), 2 * slots))
        uniform[~may_be_served(catalogue, uniform, day, need, subject)] = -1
        explored = rng.binomial(slots, config.exploration, len(guess))
        slate = np.concatenate([winners, uniform], axis=1)
        fresh = _first_of_each(slate) & (slate >= 0)
        from_auction = np.arange(slate.shape[1]) < winners.shape[1]
        room = np.where(from_auction, (slots - explored)[:, None], explored[:, None])
        rank = np.where(from_auction, np.cumsum(fresh & from_auction, axis=1), np.cumsum(fresh & ~from_auction, axis=1))
        row, place = np.nonzero(fresh & (rank <= room))
        served.append(np.stack([start + row, slate[row, place]]))
    pairs = np.concatenate(served, axis=1) if served else np.zeros((2, 0), np.int64)
    return pairs[0], pairs[1]


def chance_of_slot(bids: Floats, slots: float) -> Floats:
    """The approximate chance that each bid, [row, ad], wins one of `slots` slots; 0 where it is -inf.

    With Gumbel chance added, bids win in the order in which waits of rate exp(bid) end: about all those that end before
    the time at which `slots` are expected to have ended. That time is found by halving an interval of its logarithm.
    """
    rate = np.exp(bids - np.max(bids, axis=1, keepdims=True, initial=-1e30))
    low, high = np.full((len(bids), 1), -20.0, np.float32), np.full((len(bids), 1), 40.0, np.float32)
    for _ in range(20):
        middle = (low + high) / 2
        too_many = -np.expm1(-np.exp(middle) * rate).sum(axis=1, keepdims=True) > slots
        low, high = np.where(too_many, low, middle), np.where(too_many, middle, high)
    chance: Floats = -np.expm1(-np.exp(low) * rate)
    return chance


def guesses(config: WorldConfig, intent: Floats, rng: np.random.Generator) -> Floats:
    """What the policy takes the intents for, [row, dim], unit length."""
    return astray(intent, config.policy_noise, rng)


def auction(
    catalogue: Catalogue,
    guess: Floats,
    near: Ints,
    day: NDArray[np.int16],
    needed: NDArray[np.uint16],
    subject: Ints,
) -> Floats:
    """What each ad of `near`, [row, ad], bids for a slot before chance; -inf where it may not be served.

    The other arguments are [row, 1]; `guess` is [row, dim].
    """
    pins = catalogue.pins
    bids: Floats = np.float32(_RELEVANCE) * np.einsum("nd,ncd->nc", guess, pins.latent[near])
    bids += catalogue.advertisers.budget[pins.advertiser[near]]
    bids[~may_be_served(catalogue, near, day, needed, subject)] = -np.inf
    return bids


def may_be_served(
    catalogue: Catalogue, pin: Ints, day: NDArray[np.int16], needed: NDArray[np.uint16], subject: Ints
) -> Flags:
    """Whether each ad, [row, ad], is there, permitted and not the request's own subject pin."""
    flags: Flags = catalogue.pins.may_be_served(pin, day, needed) & (pin != subject)
    return flags


def _best(pins: Ints, score: Floats, count: int) -> Ints:
    """The `count` pins of each row with the highest scores, best first; -1 in place of those that score -inf."""
    place = np.argpartition(score, -count, axis=1)[:, -count:]
    place = np.take_along_axis(place, np.argsort(-np.take_along_axis(score, place, axis=1), axis=1), axis=1)
    finite = np.isfinite(np.take_along_axis(score, place, axis=1))
    best: Ints = np.where(finite, np.take_along_axis(pins, place, axis=1), -1)
    return best


def _first_of_each(rows: Ints) -> Flags:
    """Where each value stands for the first time in its row."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    fresh = np.ones(rows.shape, bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(fresh)
    np.put_along_axis(first, order, fresh, axis=1)
    return first
