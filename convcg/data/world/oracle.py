"""The built-in world's right answers: how likely each pin is bought after a request, by the rules that drew the log.

The oracle knows the person's interests at the time of the request, the surface, the subject pin and the query; not what
the person had in mind in that one request, over which it averages. So it bounds what any model can know.

Shape suffixes: B queries, S draws of the intent, N catalogue, D latent dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg.data.world.behaviour import (
    BROWSED_SIBLINGS,
    CHECKOUTS_PER_PURCHASE,
    SIBLING_NEARNESS,
    bounce_chance,
    click_chance,
    purchase_chance,
    wish_to_buy,
)
from convcg.data.world.catalogue import Catalogue, draw_catalogue, needed_permits
from convcg.data.world.config import DAY_SECONDS, WorldConfig
from convcg.data.world.latent import CATEGORIES, STYLES, Flags, Floats, Ints, Stream, normal, stream, unit
from convcg.data.world.people import INTERESTS_PER_USER, draw_people
from convcg.data.world.policy import auction, chance_of_slot, may_be_served
from convcg.data.world.requests import NEARNESS, beside
from convcg.data.world.tables import pin_ids, query_texts
from convcg.errors import DataError

_SCORES_AT_ONCE = 1 << 18
#: How fast an intent becomes implausible as another word comes nearer to it than the one typed.
_WORD_SHARPNESS = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Requests as the tables have them: parallel sequences, one entry a request."""

    user_id: Sequence[str]
    time: NDArray[np.float64]  # seconds since the epoch
    surface: NDArray[np.integer]  # codes of `convcg.types.Surface`
    subject_pin_id: Sequence[str | None]
    query: Sequence[str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Situation:
    """Some requests in the world's own terms."""

    interests: Floats  # [B, interest, D], at the time of the request
    purse: Floats  # [B]
    needed: NDArray[np.uint16]  # [B, 1], see `needed_permits`
    day: NDArray[np.int16]  # [B]
    subject: Ints  # [B], -1 for none
    query: Ints  # [B], row of `query_texts`, -1 for none


class Oracle:
    """The true chances of a world. `num_draws` intents are drawn for each request, always the same way."""

    def __init__(self, config: WorldConfig, *, num_draws: int = 64) -> None:
        self._config = config
        self._catalogue = draw_catalogue(config)
        self._num_draws = num_draws
        rng = stream(config, Stream.ORACLE)
        self._stray_SD, self._misread_SD = unit(normal(rng, 2, num_draws, config.vector_dim))
        self._texts = {text: row for row, text in enumerate(query_texts())}
        self._shops = _Shops.of(self._catalogue)

    @property
    def pin_ids(self) -> pa.Array:
        """The pins, in the order of the columns of every result."""
        return pin_ids(self._config, np.arange(self._config.num_pins))

    def propensity(self, asked: Asked) -> Floats:
        """[B, N] float32: how a purchase of each pin follows from being shown, were every eligible pin shown alike.

        A purchase falls on the pin that was clicked or, click A buy B, on another of its advertiser, so that a pin also
        gains from its neighbours' clicks. A retriever whose candidates are going to be shown should rank so.

        Raises:
            DataError: a person, a subject pin or a query is not of this world.
        """
        return self._scores(asked, logged=False)

    def logged(self, asked: Asked) -> Floats:
        """[B, N] float32: the approximate number of checkouts of each pin that the log holds for the request.

        As `propensity`, but each pin counts as often as the logging policy serves it and as its advertiser reports: the
        best prediction of held-out checkouts, so that its recall is what is attainable. Organic purchases and label
        noise, which no ranking foresees, are left out.

        Raises:
            DataError: a person, a subject pin or a query is not of this world.
        """
        return self._scores(asked, logged=True)

    def _scores(self, asked: Asked, *, logged: bool) -> Floats:
        count, num_pins = len(asked.user_id), self._config.num_pins
        situation = _situation(self._config, self._catalogue, asked, self._texts)
        scores = np.zeros((count, num_pins), np.float32)
        queries_at_once = max(1, _SCORES_AT_ONCE // (self._num_draws * num_pins))
        draws_at_once = max(1, _SCORES_AT_ONCE // num_pins)
        for start in range(0, count, queries_at_once):
            some = slice(start, start + queries_at_once)
            part = _Situation(**{column.name: getattr(situation, column.name)[some] for column in fields(situation)})
            intent_BSD, weight_BS = self._intents(part)
            guess_BSD = unit(intent_BSD + np.float32(self._config.policy_noise) * self._misread_SD)
            for first in range(0, self._num_draws, draws_at_once):
                draws = (slice(None), slice(first, first + draws_at_once))
                of_draws = self._scores_of(part, intent_BSD[draws], guess_BSD[draws], logged=logged)
                scores[some] += np.einsum("bs,bsn->bn", weight_BS[draws], of_draws)
        return scores

    def _scores_of(self, asked: _Situation, intent_BSD: Floats, guess_BSD: Floats, *, logged: bool) -> Floats:
        """[B, S, N]: purchases of, or checkouts reported of, each pin, were the intents and the policy's guesses so."""
        config, pins, advertisers = self._config, self._catalogue.pins, self._catalogue.advertisers
        affinity = intent_BSD @ pins.latent.T
        day, everything = asked.day[:, None], np.arange(len(pins))
        in_stock_BN = pins.is_available(everything, day)
        eligible_BN = may_be_served(self._catalogue, everything[None, :], day, asked.needed, asked.subject[:, None])

        shown: Floats = eligible_BN[:, None, :].astype(np.float32)
        if logged:
            shown = self._served(asked, guess_BSD, eligible_BN)
        click = click_chance(config, affinity, pins.allure)
        misfit_BN = pins.expensive - asked.purse[:, None]
        wish = wish_to_buy(config, affinity, advertisers.trust[pins.advertiser], misfit_BN[:, None, :])
        stays = 1 - bounce_chance(config, affinity, pins.allure)
        causes = (shown * click * stays * purchase_chance(config, wish)).astype(np.float32)
        purchases = self._shops.purchases(causes, affinity, in_stock_BN[:, None, :], config.click_a_buy_b)
        if not logged:
            return purchases
        clicks = shown * (click + (1 - click) * config.false_clicks)
        reported = (1 - advertisers.lost)[pins.advertiser] * CHECKOUTS_PER_PURCHASE * purchases
        invented = advertisers.invented[pins.advertiser] * (clicks - causes)
        copies = 1 + advertisers.reports_twice[pins.advertiser] * np.float32(1 - config.shared_event_ids)
        return np.asarray((reported + invented) * copies, np.float32)

    def _intents(self, asked: _Situation) -> tuple[Floats, Floats]:
        """Draws of what each request wants, [B, S, D], and how plausible each is given its context, [B, S], sum 1.

        The prior is the person's, drawn from; the weight is the chance of the subject pin, or of the query's words
        (softened, so that some draw remains where none fits).
        """
        config, pins, words = self._config, self._catalogue.pins, self._catalogue.words
        interest = np.arange(self._num_draws) % INTERESTS_PER_USER
        intent = unit(asked.interests[:, interest] + np.float32(config.intent_noise) * self._stray_SD)
        logit = np.zeros(intent.shape[:2], np.float32)
        looking = np.flatnonzero(asked.subject >= 0)
        subject = pins.latent[asked.subject[looking]]
        logit[looking] += NEARNESS * np.einsum("bsd,bd->bs", intent[looking], subject)
        intent[looking] = beside(intent[looking], subject[:, None, :])
        asking = np.flatnonzero(asked.query >= 0)
        style, category = np.divmod(asked.query[asking], len(CATEGORIES))
        logit[asking] -= _WORD_SHARPNESS * _behind(intent[asking] @ words.category.T, category)
        named = np.flatnonzero(style < len(STYLES))
        logit[asking[named]] -= _WORD_SHARPNESS * _behind(intent[asking[named]] @ words.style.T, style[named])
        weight = np.exp(logit - logit.max(axis=1, keepdims=True))
        return intent, weight / weight.sum(axis=1, keepdims=True)

    def _served(self, asked: _Situation, guess_BSD: Floats, eligible_BN: Flags) -> Floats:
        """[B, S, N]: the approximate chance that the logging policy shows each pin."""
        config, (num_queries, num_draws, dim) = self._config, guess_BSD.shape
        guess = guess_BSD.reshape(-1, dim)
        near = self._catalogue.forest.near(guess)
        query = np.repeat(np.arange(num_queries), num_draws)
        day, subject = asked.day[query, None], asked.subject[query, None]
        bids = auction(self._catalogue, guess, near, day, asked.needed[query], subject)
        wins = chance_of_slot(bids, config.pins_per_session * (1 - config.exploration))
        missed = np.ones((len(guess), config.num_pins), np.float32)
        np.multiply.at(missed, (np.arange(len(guess))[:, None], near), 1 - wins)
        explored = config.pins_per_session * config.exploration / np.maximum(eligible_BN.sum(axis=1), 1)
        missed_BSN = missed.reshape(num_queries, num_draws, -1)
        missed_BSN *= 1 - np.minimum(explored, 1).astype(np.float32)[:, None, None]
        served: Floats = (1 - missed_BSN) * eligible_BN[:, None, :]
        return served


def _behind(nearness_BSW: Floats, word_B: Ints) -> Floats:
    """By how much each intent is farther from the word of its query than from the nearest word, [B, S]."""
    to_the_word = np.take_along_axis(nearness_BSW, word_B[:, None, None], axis=2)[:, :, 0]
    behind: Floats = nearness_BSW.max(axis=2) - to_the_word
    return behind


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shops:
    """The shelves that hold pins, for sums over them."""

    first: Ints  # [shop], its first pin
    of_pin: Ints  # [N], the pin's shop
    seen: Floats  # [N], the share of the others on a shelf that a person looks at who buys another than the clicked pin

    @classmethod
    def of(cls, catalogue: Catalogue) -> "_Shops":
        """The shelves of a catalogue."""
        _, first, of_pin, size = np.unique(
            catalogue.pins.advertiser, return_index=True, return_inverse=True, return_counts=True
        )
        others = np.maximum(size - 1, 1)
        seen = np.where(size > 1, np.minimum(BROWSED_SIBLINGS / others, 1.0), 0.0).astype(np.float32)
        return cls(first=first, of_pin=of_pin, seen=seen[of_pin])

    def purchases(self, causes: Floats, affinity: Floats, in_stock: Flags, click_a_buy_b: float) -> Floats:
        """Where purchases fall that are caused by clicks on each pin; all are [..., N], and so is the result.

        A sibling is bought in proportion to exp(SIBLING_NEARNESS affinity) among those looked at. Their mass is taken
        at its mean, and that of the clicked pin, which is not among them, at its mean over the causes.
        """
        appeal = np.exp(np.float32(SIBLING_NEARNESS) * (affinity - 1)) * in_stock
        elsewhere = self._sum(causes) - causes
        of_clicked = (self._sum(causes * appeal) - causes * appeal) / np.maximum(elsewhere, 1e-30)
        rivals = self.seen * np.maximum(self._sum(appeal) - appeal - of_clicked, 0)
        gained = elsewhere * self.seen * appeal / np.maximum(appeal + rivals, 1e-30)
        has_siblings = self._sum(in_stock.astype(np.float32)) - in_stock > 0
        kept = causes * np.where(has_siblings, 1 - click_a_buy_b, 1)
        purchases: Floats = kept + np.float32(click_a_buy_b) * gained
        return purchases

    def _sum(self, values: Floats) -> Floats:
        """Each pin's shelf's sum, [..., N]."""
        return np.add.reduceat(values, self.first, axis=-1)[..., self.of_pin]


def _situation(config: WorldConfig, catalogue: Catalogue, asked: Asked, texts: dict[str, int]) -> _Situation:
    """Look up the requests of the tables in the world."""
    user = _numbers(asked.user_id, "user_", config.num_users)
    subject = _numbers(asked.subject_pin_id, "pin_", config.num_pins)
    unknown = [text for text in asked.query if text is not None and text not in texts]
    if (user < 0).any() or unknown:
        what = f"query {unknown[0]!r}" if unknown else "request without a user_id"
        raise DataError(f"nobody in this world makes the {what}. Ask with users and queries of its own tables.")
    progress = (np.asarray(asked.time, np.float64) - config.start_seconds) / (config.num_days * DAY_SECONDS)
    progress = np.clip(progress, 0, 1)
    interests = np.zeros((len(user), INTERESTS_PER_USER, config.vector_dim), np.float32)
    purse, country = np.zeros(len(user), np.float32), np.zeros(len(user), np.int64)
    block_of = user // config.users_per_block
    for block in np.unique(block_of):
        rows = np.flatnonzero(block_of == block)
        people = draw_people(config, catalogue.words, int(block))
        row = user[rows] - people.first_user
        purse[rows], country[rows] = people.purse[row], people.country[row]
        for interest in range(INTERESTS_PER_USER):
            which = np.full(len(rows), interest)
            interests[rows, interest] = people.interest_at(row, which, progress[rows].astype(np.float32))
    return _Situation(
        interests=interests,
        purse=purse,
        needed=needed_permits(np.asarray(asked.surface).astype(np.int64), country)[:, None],
        day=np.minimum(progress * config.num_days, config.num_days - 1).astype(np.int16),
        subject=subject,
        query=np.array([-1 if text is None else texts[text] for text in asked.query], np.int64),
    )


def _numbers(ids: Sequence[str | None], prefix: str, count: int) -> Ints:
    """The numbers behind ids like `pin_000042`; -1 for None.

    Raises:
        DataError: an id is not of this world.
    """
    texts = pa.array(ids, pa.string())
    digits = pc.utf8_slice_codeunits(texts, len(prefix))
    known = pc.and_(pc.starts_with(texts, prefix), pc.match_substring_regex(digits, "^[0-9]{1,9}$"))
    numbers = pc.if_else(known, digits, None).cast(pa.int64())
    strange = pc.and_(texts.is_valid(), pc.fill_null(pc.greater_equal(numbers, count), True))
    if strange.true_count:
        sample = texts[pc.index(strange, True).as_py()].as_py()
        raise DataError(f"{sample!r} is not of this world, whose ids run to {prefix}{count - 1}. Check config and ids.")
    found: Ints = pc.fill_null(numbers, -1).to_numpy(zero_copy_only=False)
    return found
