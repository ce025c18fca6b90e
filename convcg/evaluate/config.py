"""What is measured, and the gate."""

from pydantic import Field, field_validator

from convcg.baselines import BASELINES
from convcg.setting import Settings

#: The built-in world's own knowledge: no baseline, but the most that any model can reach.
ORACLE = "oracle"


class EvaluateConfig(Settings):
    """What is measured, and the gate that a bundle must pass."""

    #: Recall is measured at each of these.
    ks: tuple[int, ...] = Field(default=(20, 100, 1000), min_length=1)
    #: k -> the least recall of a bundle that may be published.
    gate: dict[int, float] = {}
    #: Test queries at most, evenly spaced; None for all.
    max_queries: int | None = Field(default=None, ge=1)
    #: What the model is measured beside, by name; with the built-in world also `oracle`.
    baselines: tuple[str, ...] = ("popularity", "item_item")
    #: How many similar pins the item-item baseline keeps for each pin; None for all.
    item_item_neighbours: int | None = Field(default=None, ge=1)

    @field_validator("baselines")
    @classmethod
    def _baselines_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in (*BASELINES, ORACLE):
                raise ValueError(f"{name!r} is no baseline; they are {', '.join((*BASELINES, ORACLE))}")
        if len(set(names)) < len(names):
            raise ValueError("a baseline is named twice; name each once")
        return names
