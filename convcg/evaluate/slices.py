"""What the test queries can be told apart by, and which pins were ever served.

Shape suffixes: B queries, N catalogue.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from convcg.data.prepared import PEOPLE, Prepared, read_part
from convcg.data.tables import RowTable
from convcg.evaluate.queries import histories
from convcg.types import ACTION_CODE, ACTIONS, CONVERSIONS, SURFACES, Action
from convcg.validation import lists

Ints = NDArray[np.int64]
Names = NDArray[np.object_]

_UNKNOWN = "unknown"
_CONVERSIONS = [ACTION_CODE[action] for action in CONVERSIONS]
_SHOWN_FIRST = [ACTION_CODE[action] for action in (Action.CLICK, Action.REPIN)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What the training time says of pins and people.

    actions_N: [N] int64, how often each pin was acted on.
    served_N: [N] bool, which pins were served to anybody; None where the log has no impressions. A pin was served if an
        impression of it that nobody engaged with is on record (the youngest, of which that cannot be told yet, are
        not), or a click or repin, which needs one.
    conversions: how often each person put pins into a cart or checked them out; who never did is not in it.
    """

    actions_N: Ints
    served_N: NDArray[np.bool_] | None
    conversions: dict[str, int]

    @classmethod
    def read(cls, data: Prepared, num_pins: int) -> "Past":
        """The past of prepared data."""
        actions_N, shown_N = np.zeros(num_pins, np.int64), data.frequencies()["served"].to_numpy() > 0
        has_impressions = bool(shown_N.any())
        conversions: dict[str, int] = {}
        for acted, file in zip(data.interactions(), data.files(PEOPLE), strict=True):
            pin, action = acted["pin"].to_numpy(), acted["action"].to_numpy()
            actions_N += np.bincount(pin, minlength=num_pins)
            shown_N = shown_N | (np.bincount(pin[np.isin(action, _SHOWN_FIRST)], minlength=num_pins) > 0)
            user, count = np.unique(acted["user"].to_numpy()[np.isin(action, _CONVERSIONS)], return_counts=True)
            ids = read_part(file, ["user_id"])["user_id"].take(pa.array(user)).to_pylist()
            conversions.update(zip(ids, count.tolist(), strict=True))
        return cls(actions_N=actions_N, served_N=shown_N if has_impressions else None, conversions=conversions)


def slices_of(queries: pa.Table, pins: RowTable, past: Past) -> dict[str, Names]:
    """[B] strings for each slice: each query's value, by the name of the slice.

    surface, action: of the query and of its target.
    advertiser_size: small, medium or large, thirds of the advertisers by how many pins they have; unknown.
    pin_popularity: of the target: head, mid or tail: the pins acted on most, with a third of all actions, and so on.
    pin: warm, or cold where nobody acted on the target in the training time.
    conversions: of the person in the training time: 0, 1 or 2+.
    novelty: of the target to the person: bought before, seen (acted on in the history), or novel.
    inventory: whether the target was ever served (`Past.served_N`): served or unserved; where the log says so.
    """
    target = queries["target"].to_numpy()
    had = np.array([past.conversions.get(user, 0) for user in queries["user_id"].to_pylist()], np.int64)
    slices = {
        "surface": _named(queries["surface"].to_numpy(), SURFACES),
        "action": _named(queries["action"].to_numpy(), ACTIONS),
        "advertiser_size": _advertiser_size(pins)[target],
        "pin_popularity": _popularity(past.actions_N)[target],
        "pin": _named(past.actions_N[target] == 0, ("warm", "cold")),
        "conversions": _named(np.minimum(had, 2), ("0", "1", "2+")),
        "novelty": _novelty(queries),
    }
    if past.served_N is not None:
        slices["inventory"] = _named(past.served_N[target], ("unserved", "served"))
    return slices


def advertisers_of(pins: RowTable) -> Ints | None:
    """[N] int64: each pin's advertiser, numbered from 0 without gaps, -1 for none; None where no pin has one."""
    column = pins.column("advertiser_id")
    if column is None or column.null_count == len(column):
        return None
    number: Ints = column.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    return number


def _named(code: NDArray[np.generic], names: Iterable[str]) -> Names:
    return np.array([str(name) for name in names], object)[code.astype(np.int64)]


def _advertiser_size(pins: RowTable) -> Names:
    """Advertisers with equally many pins are in the same third."""
    advertiser_N = advertisers_of(pins)
    if advertiser_N is None:
        return np.full(len(pins), _UNKNOWN, object)
    num_pins = np.bincount(advertiser_N[advertiser_N >= 0])
    third = np.searchsorted(np.quantile(num_pins, (1 / 3, 2 / 3)), num_pins, side="left")
    # The last place is that of -1.
    return _named(np.append(third, 3)[advertiser_N], ("small", "medium", "large", _UNKNOWN))


def _popularity(actions_N: Ints) -> Names:
    order = np.argsort(-actions_N, kind="stable")
    before = np.cumsum(actions_N[order]) - actions_N[order]
    third = np.empty(len(order), np.int64)
    third[order] = np.minimum(3 * before // max(int(actions_N.sum()), 1), 2)
    return _named(np.where(actions_N == 0, 2, third), ("head", "mid", "tail"))


def _novelty(queries: pa.Table) -> Names:
    target = queries["target"].to_numpy()
    owner, pin, action, _ = histories(queries).flat()
    again = pin == target[owner]
    checkout = again & (action == ACTION_CODE[Action.CHECKOUT])
    purchased = lists(queries["purchased"])
    buyer = np.repeat(np.arange(len(purchased)), [len(pins) for pins in purchased])
    bought = np.concatenate(purchased) if purchased else np.zeros(0, np.int32)
    novelty = np.zeros(len(target), np.int64)
    novelty[owner[again]] = 1
    novelty[owner[checkout]] = 2
    novelty[buyer[bought == target[buyer]]] = 2
    return _named(novelty, ("novel", "seen", "bought"))
