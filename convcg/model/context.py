"""The request itself as vectors: where it is made, for what, on which pin it looks and what it says.

Shape suffixes: B queries, P pins, D width of what is seen of a pin, w width of a feature, c of the context.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convcg.batch import PADDING, QueryBatch
from convcg.model.inputs import bag_mean, positions
from convcg.types import SURFACES, TASKS


class RequestContext(nn.Module):
    """Each part of the context as a vector; in training, subject pin and words of a share of the rows are hidden."""

    def __init__(
        self, width: int, seen_width: int, *, num_words: int, surface: bool, task_token: bool, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.surface = nn.Embedding(len(SURFACES), width) if surface else None
        self.subject = nn.Linear(seen_width, seen_width, bias=False)
        self.words = nn.Embedding(num_words, width)
        for table in (self.surface, self.words):
            if table is not None:
                nn.init.normal_(table.weight, std=0.1 * width**-0.5)
        #: The widths of the parts.
        self.widths = [*[width] * surface, width, seen_width]
        self.task: nn.Embedding | None = None
        if task_token:
            self.task = nn.Embedding(len(TASKS), width)
            nn.init.normal_(self.task.weight, std=0.1 * width**-0.5)
            self.widths.append(width)

    def forward(self, query: QueryBatch, seen_PD: Tensor, rows_P: Tensor | None) -> list[Tensor]:
        """Surface (where it is read) [B, w], words [B, w], subject pin [B, D] and, with a task token, task [B, w].

        `seen_PD` and `rows_P` as `QueryTower` takes them.
        """
        subject_B, words_BQ = query.subject_pin, query.query_words
        if self.training and self.dropout:
            hidden = torch.rand(subject_B.shape, device=subject_B.device) < self.dropout
            subject_B = subject_B.masked_fill(hidden, PADDING)
            words_BQ = words_BQ.masked_fill(hidden.unsqueeze(1), PADDING)
        subject_BD = F.embedding(positions(subject_B, rows_P).clamp(min=0), seen_PD)
        subject_BD = self.subject(F.normalize(subject_BD, dim=-1)) * (subject_B != PADDING).unsqueeze(1)
        parts = [bag_mean(self.words.weight, words_BQ, hashed=True), subject_BD]
        if self.surface is not None:
            parts.insert(0, self.surface(query.surface))
        return parts if self.task is None else [*parts, self.task(query.task)]


class ContextLayer(nn.Module):
    """All parts of the context read together: what a tower reads beside them, and what asks a history."""

    def __init__(self, widths: list[int], width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(sum(widths), 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The context that asks ([B, c]), and what the tower reads of it ([B, c])."""
        context_Bc: Tensor = self.layers(torch.cat(parts, dim=-1))
        return context_Bc, self.out(context_Bc)
