"""A self-attentive sequential recommender: the next pin from the order of those before it.

Shape suffixes: B sequences, L length, N catalogue, S sampled pins, M actions to foretell, d width.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convcg.baselines.interface import Histories, Scores, TrainingLog
from convcg.log import progress

_LENGTH = 50
_DIM, _HEADS, _LAYERS, _DROPOUT = 64, 1, 2, 0.2
_BATCH, _LEARNING_RATE = 64, 2e-3
#: Pins that a batch is told apart from; a smaller catalogue is taken whole.
_NUM_SAMPLED = 256
#: Of a small log there are more epochs, until the optimizer has taken so many steps.
_LEAST_STEPS = 300


class SasRec:
    """SASRec (Kang & McAuley, 2018, arXiv:1808.09781), trained with a softmax over the catalogue.

    A person's actions in the order of time, repeats of the same pin in a row taken as one, are read through a causal
    transformer; the state at each place is multiplied by the pins' own input vectors to foretell the next pin. In place
    of the paper's single negative the softmax is over `_NUM_SAMPLED` uniform pins a batch, whose logits are raised by
    log(N / S), so that the sum estimates that of the whole catalogue (Klenitskiy & Vasilev, 2023, arXiv:2309.07602).
    """

    def __init__(self, log: TrainingLog, *, epochs: int = 3, seed: int = 0) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._num_pins = log.num_pins
        windows = _windows(log)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._net = _Net(log.num_pins).to(self._device)
            self._train(windows, epochs, np.random.default_rng(seed))
        self._net.eval()

    def scores(self, histories: Histories) -> Scores:
        """See `Baseline`. A query without a history scores every pin alike."""
        query, pin, _, _ = histories.flat()
        new = _is_new(pin)
        new[1:] |= query[1:] != query[:-1]
        query, pin = query[new], pin[new]
        length = np.bincount(query, minlength=len(histories))
        place = np.arange(len(query)) - np.repeat(np.cumsum(length) - np.minimum(length, _LENGTH), length)
        recent = place >= 0
        pins_BL = np.full((len(histories), _LENGTH), self._num_pins, np.int64)
        pins_BL[query[recent], place[recent]] = pin[recent]
        last = torch.from_numpy((pins_BL < self._num_pins).sum(1) - 1).to(self._device)
        with torch.inference_mode():
            state_BLd = self._net(torch.from_numpy(pins_BL).to(self._device))
            state_Bd = state_BLd[torch.arange(len(last), device=self._device), last.clamp(min=0)]
            score_BN = (state_Bd @ self._net.pins.weight[: self._num_pins].T) * (last >= 0).unsqueeze(1)
        scores: Scores = score_BN.cpu().numpy()
        return scores

    def _train(self, windows: NDArray[np.int64], epochs: int, rng: np.random.Generator) -> None:
        if len(windows) == 0:
            return
        epochs = max(epochs, -(-_LEAST_STEPS * _BATCH // len(windows)))
        optimizer = torch.optim.Adam(self._net.parameters(), lr=_LEARNING_RATE)
        self._net.train()
        with progress("sasrec: trains", total=epochs * len(windows)) as meter:
            for batch in _batches(windows, epochs, rng):
                longest = int((batch < self._num_pins).sum(1).max())
                loss = self._loss(torch.from_numpy(batch[:, :longest]).to(self._device), rng)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                meter.advance(len(batch))

    def _loss(self, pins_BL: Tensor, rng: np.random.Generator) -> Tensor:
        """The mean cross-entropy of each next pin."""
        following = pins_BL[:, 1:]
        foretold = following < self._num_pins
        state_Md, target_M = self._net(pins_BL[:, :-1])[foretold], following[foretold]
        table = self._net.pins.weight
        if self._num_pins <= _NUM_SAMPLED:
            return F.cross_entropy(state_Md @ table[: self._num_pins].T, target_M)
        drawn = rng.choice(self._num_pins, _NUM_SAMPLED, replace=False)
        sampled_S = torch.from_numpy(drawn).to(self._device)
        logit_MS = state_Md @ self._net.pins(sampled_S).T + float(np.log(self._num_pins / _NUM_SAMPLED))
        logit_MS = logit_MS.masked_fill(sampled_S == target_M[:, None], float("-inf"))
        own_M1 = (state_Md * self._net.pins(target_M)).sum(1, keepdim=True)
        # The target stands first, and its own draw, where there was one, is out: it counts once.
        return F.cross_entropy(torch.cat([own_M1, logit_MS], 1), torch.zeros_like(target_M))


class _Net(nn.Module):
    """[B, L] pin rows, filled up with N behind the last, to [B, L, d] states. A state sees nothing behind its place."""

    def __init__(self, num_pins: int) -> None:
        super().__init__()
        self.pins = nn.Embedding(num_pins + 1, _DIM, padding_idx=num_pins)
        self.position = nn.Embedding(_LENGTH, _DIM)
        for table in (self.pins, self.position):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(_DROPOUT)
        self.layers = nn.Sequential(*(_Layer() for _ in range(_LAYERS)))
        self.norm = nn.LayerNorm(_DIM)

    def forward(self, pins_BL: Tensor) -> Tensor:
        x = self.pins(pins_BL) * _DIM**0.5 + self.position.weight[: pins_BL.shape[1]]
        state: Tensor = self.norm(self.layers(self.dropout(x)))
        return state


class _Layer(nn.Module):
    """Causal attention, then a small MLP; each is added to what it reads. Padding stands last, so none looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(_DIM), nn.LayerNorm(_DIM)
        self.read, self.attended = nn.Linear(_DIM, 3 * _DIM), nn.Linear(_DIM, _DIM)
        self.mlp = nn.Sequential(nn.Linear(_DIM, _DIM), nn.ReLU(), nn.Linear(_DIM, _DIM))
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x_BLd: Tensor) -> Tensor:
        batch, length, _ = x_BLd.shape
        heads = self.read(self.norm(x_BLd)).view(batch, length, 3, _HEADS, _DIM // _HEADS).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x_BLd = x_BLd + self.dropout(self.attended(seen.transpose(1, 2).reshape(x_BLd.shape)))
        result: Tensor = x_BLd + self.dropout(self.mlp(self.norm_mlp(x_BLd)))
        return result


def _windows(log: TrainingLog) -> NDArray[np.int64]:
    """[windows, L + 1] int64 stretches of people's sequences, filled up with N; the next begins where one ends, so that
    each pin but a person's first is foretold once.
    """
    parts = [np.zeros((0, _LENGTH + 1), np.int64)]
    for table in log.tables():
        user, pin = table["user"].to_numpy(), table["pin"].to_numpy()
        new = _is_new(pin)
        new[1:] |= user[1:] != user[:-1]
        user, pin = user[new], pin[new].astype(np.int64)
        _, first, length = np.unique(user, return_index=True, return_counts=True)
        number = -(-(length - 1) // _LENGTH)  # one action alone foretells nothing
        within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        start = np.repeat(first, number) + within * _LENGTH
        place = start[:, None] + np.arange(_LENGTH + 1)
        inside = place < np.repeat(first + length, number)[:, None]
        parts.append(np.where(inside, pin[np.minimum(place, len(pin) - 1)] if len(pin) else place, log.num_pins))
    return np.concatenate(parts)


def _is_new(pins: NDArray[np.integer]) -> NDArray[np.bool_]:
    new = np.ones(len(pins), bool)
    new[1:] = pins[1:] != pins[:-1]
    return new


def _batches(windows: NDArray[np.int64], epochs: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    for _ in range(epochs):
        order = rng.permutation(len(windows))
        for start in range(0, len(order), _BATCH):
            yield windows[order[start : start + _BATCH]]
