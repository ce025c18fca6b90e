"""The built-in world with its latents, for the tests of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from convcg.data.world import WorldConfig
from convcg.data.world.behaviour import Happenings, Origin
from convcg.data.world.block import Block, draw_block
from convcg.data.world.catalogue import Catalogue, Pins, draw_catalogue
from convcg.data.world.people import People
from convcg.data.world.requests import Requests
from convcg.data.world.tables import events_table
from convcg.types import ACTION_CODE, Action

SMALL: dict[str, Any] = {"num_users": 300, "num_pins": 500, "num_advertisers": 25, "num_days": 7}
CONVERSIONS = (Action.ADD_TO_CART, Action.CHECKOUT)


@dataclass(frozen=True, kw_only=True)
class World:
    """A world of one block."""

    config: WorldConfig
    catalogue: Catalogue
    block: Block

    @property
    def pins(self) -> Pins:
        return self.catalogue.pins

    @property
    def people(self) -> People:
        return self.block.people

    @property
    def requests(self) -> Requests:
        return self.block.requests

    @property
    def happenings(self) -> Happenings:
        return self.block.happenings

    def events(self) -> pa.Table:
        return events_table(self.config, self.catalogue, self.block)

    def rows(self, *actions: Action) -> np.ndarray:
        return np.flatnonzero(np.isin(self.happenings.action, [ACTION_CODE[action] for action in actions]))

    def rows_of_origin(self, *origins: Origin) -> np.ndarray:
        return np.flatnonzero(np.isin(self.happenings.origin, origins))

    def advertiser(self, rows: np.ndarray) -> np.ndarray:
        return self.pins.advertiser[self.happenings.pin[rows]]

    def affinity(self, rows: np.ndarray) -> np.ndarray:
        """Of the pins to the intents of the requests that they were served in."""
        intent = self.requests.intent[self.happenings.request[rows]]
        return np.einsum("nd,nd->n", intent, self.pins.latent[self.happenings.pin[rows]])

    def hours_to_report(self) -> np.ndarray:
        rows = self.rows(*CONVERSIONS)
        return (self.happenings.reported[rows] - self.happenings.time[rows]) / 3600


def draw(**knobs: Any) -> World:
    """The world of these settings, all its people in one block."""
    config = WorldConfig(**{"users_per_block": 1_000_000, **knobs})
    catalogue = draw_catalogue(config)
    return World(config=config, catalogue=catalogue, block=draw_block(config, catalogue, 0))


def draw_small(**knobs: Any) -> World:
    """The same in a tenth of a second."""
    return draw(**{**SMALL, **knobs})
