"""A softmax over given embeddings, without towers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from convcg.batch import PADDING
from convcg.model.log_sum_exp import Excluded, equal_pairs
from convcg.model.loss import Embedded, Softmax
from convcg.model.step import OwnPins

TEMPERATURE = torch.tensor(0.2)


def unit(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def softmax(
    query_Bd: Tensor,
    pin_Nd: Tensor,
    own_BK: Tensor,
    rows_P: Tensor | None = None,
    log_count_P: Tensor | None = None,
    *,
    num_draws: int = 0,
    temperature: Tensor = TEMPERATURE,
) -> Softmax:
    """Rows with these own pins (the target first) against a pool of these pins; None for all of them."""
    rows = torch.arange(len(pin_Nd)) if rows_P is None else rows_P
    own = OwnPins(rows=own_BK, num_draws=num_draws)
    embedded = Embedded(
        query_Bd=query_Bd,
        own_BKd=F.embedding(own_BK.where(own_BK != PADDING, own_BK[:, :1]), pin_Nd),
        pool_Pd=F.embedding(rows, pin_Nd),
        offset_P=None if log_count_P is None else -log_count_P,
        temperature=temperature,
    )
    excluded = Excluded.of(equal_pairs(own_BK, rows))
    return Softmax.of(embedded, own, excluded=excluded, groups=None, chunk=512)
