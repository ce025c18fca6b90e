"""What can only be settled once all examples are counted: caps per pin and advertiser, the mean click's weight."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from convcg.data.engagement import relative_to_mean
from convcg.data.served import draw

Floats = NDArray[np.float64]


def kept_shares(
    count_N: NDArray[np.int64], advertiser_N: NDArray[np.int32], *, per_pin: int | None, per_advertiser: int | None
) -> Floats:
    """[N] float64: the share of each pin's examples that stays, so that about the caps do.

    First each pin is cut to `per_pin`; an advertiser that is still over `per_advertiser` then loses the same share of
    the examples of all its pins. `count_N`: examples of each pin; `advertiser_N`: -1 for none.
    """
    share = np.ones(len(count_N))
    if per_pin is not None:
        share = np.minimum(1.0, per_pin / np.maximum(count_N, 1))
    if per_advertiser is not None and (advertiser_N >= 0).any():
        known = advertiser_N >= 0
        size = np.bincount(advertiser_N[known], (share * count_N)[known])
        of_advertiser = np.minimum(1.0, per_advertiser / np.maximum(size, 1))
        share[known] *= of_advertiser[advertiser_N[known]]
    return share


def stays(time: NDArray[np.int64], target: NDArray[np.int32], share_N: Floats) -> NDArray[np.bool_]:
    """Which examples stay, by what looks like chance and is the same anywhere. `time`: the query's, microseconds."""
    share = share_N[target]
    kept: NDArray[np.bool_] = (draw(time, target) / 2.0**64 < share) | (share == 1.0)
    return kept


def final_weights(examples: pa.Table, click_weight: float, mean: float) -> NDArray[np.float32]:
    """The weights of examples, a click's times w(t) over `mean`, the mean w(t) of all clicks."""
    dwell_weight = examples["dwell_weight"].to_numpy()
    weight = examples["weight"].to_numpy()
    with np.errstate(invalid="ignore"):
        relative = click_weight * relative_to_mean(dwell_weight, mean)
    return np.where(np.isnan(dwell_weight), weight, relative).astype(np.float32)
