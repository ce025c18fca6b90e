"""One block of users of the built-in world: the people and everything that they do, latents included."""

from dataclasses import dataclass

import numpy as np

from convcg.data.world.behaviour import Happenings, browse, buy, concatenated
from convcg.data.world.catalogue import Catalogue
from convcg.data.world.config import WorldConfig
from convcg.data.world.latent import Ints
from convcg.data.world.people import People, draw_people
from convcg.data.world.policy import serve
from convcg.data.world.reports import report
from convcg.data.world.requests import Requests, draw_requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What block `number` holds. `happenings` are what is logged, in the order of time."""

    number: int
    people: People
    requests: Requests
    happenings: Happenings
    event: Ints  # [happening], its event's number in the block; two reports may share one
    purchases: Happenings  # what truly happened, before any report of it


def draw_block(config: WorldConfig, catalogue: Catalogue, number: int) -> Block:
    """Draw one block, whose randomness comes from the seed and its number alone, so that any process may do it."""
    people = draw_people(config, catalogue.words, number)
    requests = draw_requests(config, catalogue, people, number)
    served = serve(config, catalogue, people, requests, number)
    browsed, clicks = browse(config, catalogue, people, requests, served, number)
    purchases, bought = buy(config, catalogue, requests, clicks, number)
    reports, first_report = report(config, catalogue, purchases, clicks, bought, number)

    happenings = concatenated([browsed, reports])
    event = np.arange(len(happenings))
    event[len(browsed) :] = np.where(first_report < 0, event[len(browsed) :], len(browsed) + first_report)
    seen = np.flatnonzero(happenings.time < config.end_seconds)
    order = seen[np.argsort(happenings.time[seen], kind="stable")]
    place = np.full(len(happenings), -1)
    place[order] = np.arange(len(order))
    return Block(
        number=number,
        people=people,
        requests=requests,
        happenings=happenings.take(order),
        event=place[event[order]],
        purchases=purchases,
    )
