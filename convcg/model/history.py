"""What a person did before, as vectors: the weighted mean of the pins, and a transformer that adds to it.

Shape suffixes: B queries, L history, T actions in all, Q asked, D width of what is seen of a pin, w the transformer's
width, h heads.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from convcg.batch import PADDING, QueryBatch
from convcg.setting import Settings
from convcg.types import ACTION_CODE, ACTIONS, SURFACES, Action

#: Ages are read in powers of two of a minute, up to about two years.
_NUM_AGE_BUCKETS = 21
#: Dwells are read in powers of two of a second, up to half an hour; 0 is an unknown one.
_NUM_DWELL_BUCKETS = 12
#: The times between neighbours are read in powers of two of a second, up to about two years.
_NUM_GAP_BUCKETS = 27
#: The width of a feed-forward layer, in widths of its input.
_EXPANSION = 4
_LOG_2 = 0.6931471805599453


class HistoryKind(StrEnum):
    """How a history is read."""

    MEAN = "mean"
    TRANSFORMER = "transformer"  # beside the mean


class HistoryEncoderConfig(Settings):
    """The encoder of histories. Everything but `kind` is the transformer's."""

    kind: HistoryKind = HistoryKind.MEAN
    width: int = Field(default=64, ge=2)
    layers: int = Field(default=2, ge=1, le=64)
    heads: int = Field(default=4, ge=1)
    #: How many of the last actions are averaged.
    recent: int = Field(default=10, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _settings_mean_something(self) -> "HistoryEncoderConfig":
        if self.kind is HistoryKind.MEAN:
            for name, field in type(self).model_fields.items():
                if name != "kind" and getattr(self, name) != field.default:
                    raise ValueError(f"{name} is the transformer's; leave it out, or set kind: transformer")
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} must be a multiple of heads = {self.heads}")
        return self


def _age_bucket(query: QueryBatch) -> Tensor:
    return torch.log2(query.history_age.clamp(min=0) / 60 + 1).long().clamp(max=_NUM_AGE_BUCKETS - 1)


def _dwell_bucket(query: QueryBatch) -> Tensor:
    seconds = query.history_dwell.nan_to_num(0).clamp(min=0)
    lasted = torch.log2(seconds + 1).long().clamp(max=_NUM_DWELL_BUCKETS - 2) + 1
    return torch.where(query.history_dwell >= 0, lasted, 0)


def _gap_bucket(query: QueryBatch) -> Tensor:
    """Of the time to the next action, the last one's to the request."""
    present = query.history_pin != PADDING
    later = F.pad((query.history_age * present)[:, 1:], (0, 1))
    return torch.log2((query.history_age - later).clamp(min=0) + 1).long().clamp(max=_NUM_GAP_BUCKETS - 1)


class HistoryPool(nn.Module):
    """The weighted mean of the pins in a history; an action's weight depends on its kind, surface, age and dwell."""

    def __init__(self, width: int, *, checkouts_first: bool) -> None:
        """`checkouts_first`: a checkout weighs twice as much as another action, to begin with."""
        super().__init__()
        self.action = nn.Parameter(torch.zeros(len(ACTIONS)))
        self.surface = nn.Parameter(torch.zeros(len(SURFACES) + 1))  # the last: unknown
        self.age = nn.Parameter(torch.zeros(_NUM_AGE_BUCKETS))
        self.dwell = nn.Parameter(torch.zeros(_NUM_DWELL_BUCKETS))
        self.empty = nn.Parameter(torch.randn(width) * width**-0.5)
        if checkouts_first:
            with torch.no_grad():
                self.action[ACTION_CODE[Action.CHECKOUT]] = _LOG_2

    def forward(self, query: QueryBatch, history_BLD: Tensor, present_BL: Tensor) -> Tensor:
        """[B, D] unit vectors. `history_BLD`: what is seen of each pin; `present_BL`: bool, which actions are read."""
        logit = self.action[query.history_action] + self.surface[query.history_surface]
        logit = logit + self.age[_age_bucket(query)] + self.dwell[_dwell_bucket(query)]
        pooled = torch.einsum("bl,bld->bd", logit.exp() * present_BL, history_BLD)
        pooled = torch.where(present_BL.any(1, keepdim=True), pooled, self.empty)
        return F.normalize(pooled, dim=-1)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the T actions that are read stand among the B x L places of a batch of histories, most of which are empty:
    what a layer does to each action by itself it does to these alone.
    """

    present_BL: Tensor
    index_T: Tensor

    @classmethod
    def of(cls, present_BL: Tensor) -> "Places":
        """`present_BL`: bool."""
        return cls(present_BL, present_BL.flatten().nonzero().squeeze(1))

    def taken(self, x_BLw: Tensor) -> Tensor:
        """[B, L, ...] -> [T, ...]."""
        return x_BLw.flatten(0, 1).index_select(0, self.index_T)

    def spread(self, x_Tw: Tensor) -> Tensor:
        """[T, w] -> [B, L, w], zeros in the empty places."""
        num_rows, length = self.present_BL.shape
        empty = x_Tw.new_zeros(num_rows * length, x_Tw.shape[1])
        return empty.index_copy(0, self.index_T, x_Tw).view(num_rows, length, x_Tw.shape[1])


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017): each of Q vectors asks all actions of its row."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)  # one would add the same to all logits

    def among_themselves(self, state_Tw: Tensor, places: Places) -> Tensor:
        """[T, w]: what each action learns from those of its row."""
        answer_BLw = self._answer(places.spread(self.query(state_Tw)), state_Tw, places)
        out: Tensor = self.out(places.taken(answer_BLw))
        return out

    def asked_by(self, asked_Bw: Tensor, state_Tw: Tensor, places: Places) -> Tensor:
        """[B, w]: one question a row; finite and without meaning where nothing is present."""
        out: Tensor = self.out(self._answer(self.query(asked_Bw).unsqueeze(1), state_Tw, places).squeeze(1))
        return out

    def _answer(self, query_BQw: Tensor, state_Tw: Tensor, places: Places) -> Tensor:
        key, value = places.spread(self.key(state_Tw)), places.spread(self.value(state_Tw))
        # Written out: the fused kernels' backward pass gives other bits each time.
        logit_BhQL = (self._split(query_BQw) @ self._split(key).mT) * (query_BQw.shape[-1] // self.num_heads) ** -0.5
        empty_BL = ~places.present_BL
        logit_BhQL = logit_BhQL.masked_fill(empty_BL[:, None, None, :], torch.finfo(logit_BhQL.dtype).min)
        answer_BhQv: Tensor = logit_BhQL.softmax(-1).to(value.dtype) @ self._split(value)
        return answer_BhQv.transpose(1, 2).flatten(2)

    def _split(self, x_BLw: Tensor) -> Tensor:
        num_rows, length, width = x_BLw.shape
        return x_BLw.view(num_rows, length, self.num_heads, width // self.num_heads).transpose(1, 2)


class GatedBlock(nn.Module):
    """A pre-norm transformer layer whose two sub-layers pass through gates (LiGR: Borisyuk et al., 2025, arXiv
    2502.03417): x + sigmoid(G x) * f(norm(x)). The second is SwiGLU (Shazeer, 2020, arXiv 2002.05202).
    """

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention_gate, self.forward_gate = nn.Linear(width, width), nn.Linear(width, width)
        self.attention = Attention(width, heads)
        self.up, self.gate = nn.Linear(width, _EXPANSION * width), nn.Linear(width, _EXPANSION * width)
        self.down = nn.Linear(_EXPANSION * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_Tw: Tensor, places: Places) -> Tensor:
        """[T, w] -> [T, w]."""
        attended = self.dropout(self.attention.among_themselves(self.attention_norm(x_Tw), places))
        x_Tw = x_Tw + self.attention_gate(x_Tw).sigmoid() * attended
        normed = self.forward_norm(x_Tw)
        moved = self.dropout(self.down(F.silu(self.gate(normed)) * self.up(normed)))
        out: Tensor = x_Tw + self.forward_gate(x_Tw).sigmoid() * moved
        return out


class HistoryTransformer(nn.Module):
    """Actions attend to each other in both directions, which is right where each request has one prediction.

    What comes out holds the last action, the mean of the recent ones, and what the request's context asks for.
    """

    def __init__(self, width_in: int, width_out: int, context_width: int, config: HistoryEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.recent = config.recent
        self.pin = nn.Linear(width_in, width)
        self.action = nn.Embedding(len(ACTIONS), width)
        self.surface = nn.Embedding(len(SURFACES) + 1, width)  # the last: unknown
        self.age = nn.Embedding(_NUM_AGE_BUCKETS, width)
        self.gap = nn.Embedding(_NUM_GAP_BUCKETS, width)
        self.dwell = nn.Embedding(_NUM_DWELL_BUCKETS, width)
        for table in (self.action, self.surface, self.age, self.gap, self.dwell):
            nn.init.normal_(table.weight, std=0.1 * width**-0.5)
        self.norm, self.final_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            GatedBlock(width, heads=config.heads, dropout=config.dropout) for _ in range(config.layers)
        )
        self.asked = nn.Linear(context_width, width)
        self.cross = Attention(width, config.heads)
        self.empty = nn.Parameter(torch.randn(3 * width) * width**-0.5)
        self.out = nn.Linear(3 * width, width_out)

    def forward(self, query: QueryBatch, history_BLD: Tensor, present_BL: Tensor, context_Bc: Tensor) -> Tensor:
        """[B, width_out]. `history_BLD` and `present_BL` as `HistoryPool` takes them."""
        places = Places.of(present_BL)
        token_Tw = self.pin(places.taken(history_BLD))
        read = {
            self.action: query.history_action,
            self.surface: query.history_surface.remainder(len(SURFACES) + 1),
            self.age: _age_bucket(query),
            self.gap: _gap_bucket(query),
            self.dwell: _dwell_bucket(query),
        }
        for table, code_BL in read.items():
            token_Tw = token_Tw + table(places.taken(code_BL))
        state_Tw = self.dropout(self.norm(token_Tw))
        for block in self.blocks:
            state_Tw = block(state_Tw, places)
        state_Tw = self.final_norm(state_Tw)
        state_BLw = places.spread(state_Tw)
        from_end = present_BL.flip(1).cumsum(1).flip(1)
        last, recent = present_BL & (from_end == 1), present_BL & (from_end <= self.recent)
        asked = self.cross.asked_by(self.asked(context_Bc), state_Tw, places)
        pooled = torch.cat([_mean(state_BLw, last), _mean(state_BLw, recent), asked], dim=-1)
        out: Tensor = self.out(torch.where(present_BL.any(1, keepdim=True), pooled, self.empty))
        return out


def _mean(state_BLw: Tensor, chosen_BL: Tensor) -> Tensor:
    """Over the chosen states; zeros where none is."""
    weight_BL = chosen_BL.to(state_BLw.dtype)
    return torch.einsum("bl,blw->bw", weight_BL / weight_BL.sum(1, keepdim=True).clamp(min=1), state_BLw)
