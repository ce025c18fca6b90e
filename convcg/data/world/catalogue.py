"""The catalogue of the built-in world: advertisers with coherent shelves of pins, drawn once from the seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcg.data.world.config import WorldConfig
from convcg.data.world.forest import Forest, grow_forest
from convcg.data.world.latent import (
    CATEGORIES,
    Flags,
    Floats,
    Ints,
    Stream,
    Words,
    astray,
    draw_words,
    normal,
    stream,
    unit,
)
from convcg.types import SURFACES

COUNTRIES = ("US", "GB", "CA", "DE", "FR", "BR")
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """One pin a row, sorted by advertiser."""

    latent: Floats  # [pin, dim], unit length
    advertiser: Ints  # [pin], ascending
    category: Ints  # [pin]
    style: Ints  # [pin]
    price: Floats  # [pin]
    expensive: Floats  # [pin], log price against the category's
    allure: Floats  # [pin], draws clicks and bounces without purchases
    permits: NDArray[np.uint16]  # [pin], one bit for each surface, then for each country, where it may be served
    first_day: NDArray[np.int16]  # [pin], day of the log from whose midnight it is there
    last_day: NDArray[np.int16]  # [pin], day of the log from whose midnight it is sold out; num_days + 1 for never

    def __len__(self) -> int:
        return len(self.price)

    def is_available(self, pin: Ints, day: NDArray[np.int16]) -> Flags:
        """Whether pins exist and are in stock on these days of the log; the shapes broadcast."""
        flags: Flags = (self.first_day[pin] <= day) & (day < self.last_day[pin])
        return flags

    def may_be_served(self, pin: Ints, day: NDArray[np.int16], needed: NDArray[np.uint16]) -> Flags:
        """Whether pins are available, and permitted where `needed` asks for it (see `needed_permits`)."""
        flags: Flags = ((self.permits[pin] & needed) == needed) & self.is_available(pin, day)
        return flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisers:
    """One advertiser a row."""

    trust: Floats  # [advertiser], what people think of it
    budget: Floats  # [advertiser], how hard its ads are pushed
    shelf: Ints  # [advertiser + 1], the row of its first pin, and at the end the number of pins
    lost: Floats  # [advertiser], share of its conversions that it never reports
    invented: Floats  # [advertiser], chance that it reports a checkout for a click that led to none
    reports_twice: Flags  # [advertiser]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All that every block of users shares."""

    words: Words
    pins: Pins
    advertisers: Advertisers
    forest: Forest


def needed_permits(surface: Ints, country: Ints) -> NDArray[np.uint16]:
    """The bits of `Pins.permits` that a request from this surface and country asks for, row by row."""
    bits: NDArray[np.uint16] = ((1 << surface) | (1 << (len(SURFACES) + country))).astype(np.uint16)
    return bits


def draw_catalogue(config: WorldConfig) -> Catalogue:
    """Advertisers around the categories, and their pins around them."""
    words = draw_words(config)
    rng = stream(config, Stream.CATALOGUE)
    num_pins, num_advertisers = config.num_pins, config.num_advertisers
    home = rng.integers(len(CATEGORIES), size=num_advertisers)
    centre = astray(words.category[home], 0.7, rng)
    shares = rng.lognormal(0.0, 0.7, num_advertisers)
    advertiser = np.sort(rng.choice(num_advertisers, num_pins, p=shares / shares.sum()))
    latent = astray(centre[advertiser], config.catalogue_spread, rng)
    category = words.category_of(latent)
    expensive = 0.5 * normal(rng, num_pins)
    typical_log_price = rng.normal(3.5, 0.8, len(CATEGORIES)).astype(np.float32)
    on_surface = rng.random((num_pins, len(SURFACES))) >= 0.05
    on_surface[~on_surface.any(axis=1)] = True
    ships_to = (rng.random((num_advertisers, len(COUNTRIES))) < 0.6) | (rng.random((num_advertisers, 1)) < 0.8)
    ships_to[~ships_to.any(axis=1)] = True
    first_day, last_day = _days_on_sale(config, rng)
    pins = Pins(
        latent=latent,
        advertiser=advertiser,
        category=category,
        style=words.style_of(latent),
        price=np.exp(typical_log_price[category] + expensive).astype(np.float32).round(2),
        expensive=expensive,
        allure=normal(rng, num_pins),
        permits=_bits(np.concatenate([on_surface, ships_to[advertiser]], axis=1)),
        first_day=first_day,
        last_day=last_day,
    )
    under, over, twice = rng.random((3, num_advertisers))
    advertisers = Advertisers(
        trust=normal(rng, num_advertisers),
        budget=np.float32(config.budget_spread) * normal(rng, num_advertisers),
        shelf=np.searchsorted(advertiser, np.arange(num_advertisers + 1)),
        lost=np.where(under < config.under_reporting, config.under_reported, 0.0).astype(np.float32),
        invented=np.where(over < config.over_reporting, config.over_reported, 0.0).astype(np.float32),
        reports_twice=twice < config.double_reporting,
    )
    forest = grow_forest(latent, max_found=config.auction_size, rng=stream(config, Stream.FOREST))
    return Catalogue(words=words, pins=pins, advertisers=advertisers, forest=forest)


def _days_on_sale(config: WorldConfig, rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """The day each pin appears, and the later day from which it is sold out."""
    is_new, when_new, is_sold_out, when_sold_out = rng.random((4, config.num_pins))
    days = config.num_days
    first = np.where(is_new < config.new_pins, 1 + np.floor(when_new * (days - 1)), 0)
    gone = first + 1 + np.floor(when_sold_out * (days - first - 1))
    last = np.where(is_sold_out < config.sold_out, gone, days + 1)
    return first.astype(np.int16), last.astype(np.int16)


def _bits(flags: Flags) -> NDArray[np.uint16]:
    """[row, bit] to one number a row."""
    bits: NDArray[np.uint16] = (flags << np.arange(flags.shape[1])).sum(axis=1).astype(np.uint16)
    return bits


def draw_views(config: WorldConfig, latent: Floats) -> dict[str, Floats]:
    """What models may see of the latents: `visual`, `text` and `graph`, each turned, noisy and of its own length."""
    views = {}
    for number, (name, dim, noise) in enumerate(
        (
            ("visual", config.visual_dim, config.visual_noise),
            ("text", config.text_dim, config.text_noise),
            ("graph", config.graph_dim, config.graph_noise),
        )
    ):
        rng = stream(config, Stream.VIEWS, number)
        turn = _turn(rng, latent.shape[1], dim)
        parts = []
        for start in range(0, len(latent), _ROWS_AT_ONCE):
            seen = np.einsum("nd,dv->nv", latent[start : start + _ROWS_AT_ONCE], turn)
            parts.append(seen + np.float32(noise) * unit(normal(rng, *seen.shape)))
        views[name] = np.concatenate(parts)
    return views


def _turn(rng: np.random.Generator, latent_dim: int, view_dim: int) -> Floats:
    """A random [latent_dim, view_dim] matrix that keeps angles where there is room for them (orthonormal)."""
    square = rng.standard_normal((max(latent_dim, view_dim),) * 2)
    orthonormal, _ = np.linalg.qr(square)
    turn: Floats = orthonormal[:latent_dim, :view_dim].astype(np.float32)
    return turn
