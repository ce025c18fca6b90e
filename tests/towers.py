"""Random towers, pins and queries in every kind of feature."""

from dataclasses import replace

import torch
from torch import Tensor

from convcg.batch import PADDING, PinBatch, QueryBatch
from convcg.features import MAX_BAG_LENGTH, FeatureShape, FeatureShapes, Kind
from convcg.model.history import HistoryEncoderConfig, HistoryKind
from convcg.model.inputs import InputKind
from convcg.model.towers import HeadKind, TowerConfig, TowerKind
from convcg.model.two_tower import ModelConfig, PinLength, TwoTower

NUM_PINS = 40
SIDE = (
    FeatureShape(name="kind", kind=Kind.CATEGORY, size=5),
    FeatureShape(name="styles", kind=Kind.BAG, size=6),
    FeatureShape(name="price", kind=Kind.NUMBER, size=2),
    FeatureShape(name="visual", kind=Kind.VECTOR, size=3),
)
SHAPES = FeatureShapes(pin=(FeatureShape(name="pin_id", kind=Kind.ID, size=NUM_PINS), *SIDE), user=SIDE)
CONFIG = ModelConfig(
    dim=12, query_tower=TowerConfig(hidden=(16,)), pin_tower=TowerConfig(hidden=(16, 8)), num_query_words=32
)
TRANSFORMER = HistoryEncoderConfig(kind=HistoryKind.TRANSFORMER, width=8, heads=2, recent=3)


def both(kind: TowerKind, **tower: object) -> dict[str, TowerConfig]:
    """The same tower on both sides."""
    config = TowerConfig(kind=kind, **tower)  # type: ignore[arg-type]
    return {"query_tower": config, "pin_tower": config}


_CONCAT = {"inputs": InputKind.CONCAT, "feature_dim": 6}
_DEEP = {"hidden": (16, 8)}
#: Every kind of tower and every option, by itself and together.
VARIANTS = {
    name: CONFIG.model_copy(update=update)
    for name, update in {
        "default": {},
        "concat": _CONCAT,
        "mlp": {**_CONCAT, **both(TowerKind.MLP, **_DEEP)},
        "cross": both(TowerKind.CROSS, cross_layers=2),
        "low rank": {**_CONCAT, **both(TowerKind.CROSS, cross_rank=3)},
        "parallel": {**_CONCAT, **both(TowerKind.PARALLEL, **_DEEP)},
        "sequential": {**_CONCAT, **both(TowerKind.SEQUENTIAL, hidden=(8,))},
        "sequential matched": {**_CONCAT, **both(TowerKind.SEQUENTIAL_MATCHED, **_DEEP)},
        "two heads": {"heads": HeadKind.MULTI},
        "task token": {"task_token": True},
        "no surface": {"surface": False},
        "context layer": {"context_layer": True},
        "free length": {"pin_length": PinLength.FREE, "history_gain": True},
        "transformer": {"history": TRANSFORMER},
        "everything": {
            **_CONCAT,
            **both(TowerKind.PARALLEL, **_DEEP),
            "heads": HeadKind.MULTI,
            "task_token": True,
            "pin_length": PinLength.FREE,
            "history_gain": True,
            "history": TRANSFORMER,
        },
    }.items()
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_towers(seed: int = 0, config: ModelConfig = CONFIG, shapes: FeatureShapes = SHAPES) -> TwoTower:
    """Towers in eval mode, with no parameter left at zero."""
    towers = TwoTower(config, shapes)
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in sorted(towers.named_parameters()):
            if name != "log_temperature":
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return towers.eval()


def random_features(count: int, seed: int) -> dict[str, Tensor]:
    """A value of every feature of `SIDE` for `count` rows."""
    generator = seeded(seed)
    styles = torch.randint(0, 6, (count, MAX_BAG_LENGTH), generator=generator)
    styles[torch.arange(MAX_BAG_LENGTH) >= torch.randint(0, 5, (count, 1), generator=generator)] = PADDING
    return {
        "kind": torch.randint(0, 5, (count,), generator=generator),
        "styles": styles,
        "price": torch.randn(count, 2, generator=generator),
        "visual": torch.randn(count, 3, generator=generator),
    }


def random_pins(seed: int = 1) -> PinBatch:
    """The whole catalogue."""
    return PinBatch(rows=torch.arange(NUM_PINS), features=random_features(NUM_PINS, seed))


def random_queries(count: int, *, longest: int = 6, seed: int = 2, num_pins: int = NUM_PINS) -> QueryBatch:
    """Queries with histories of every length up to `longest`, with and without subject pins and words."""
    generator = seeded(seed)
    length = torch.arange(count) % (longest + 1)
    absent = torch.arange(longest) >= length[:, None]
    words = torch.randint(0, 2**32, (count, 3), generator=generator)
    words[torch.arange(count) % 3 == 0] = PADDING
    subject = torch.randint(0, num_pins, (count,), generator=generator)
    subject[torch.arange(count) % 2 == 0] = PADDING

    dwell = torch.rand(count, longest, generator=generator) * 100
    dwell[:, ::2] = float("nan")

    def codes(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count, longest), generator=generator).masked_fill(absent, PADDING)

    return QueryBatch(
        task=torch.arange(count) % 2,
        surface=torch.randint(0, 3, (count,), generator=generator),
        subject_pin=subject,
        query_words=words,
        history_pin=codes(0, num_pins),
        history_action=codes(1, 5),
        history_surface=codes(-1, 3),
        history_age=(torch.rand(count, longest, generator=generator) * 1e6).masked_fill(absent, PADDING),
        history_dwell=dwell.masked_fill(absent, PADDING),
        features=random_features(count, seed),
    )


def rows_of(queries: QueryBatch, rows: Tensor, *, width: int | None = None) -> QueryBatch:
    """Some rows of a batch; `width` cuts their histories, or pads them further."""
    taken = {name: getattr(queries, name)[rows] for name in vars(queries) if name != "features"}
    if width is not None:
        for name in ("history_pin", "history_action", "history_surface", "history_age", "history_dwell"):
            missing = width - taken[name].shape[1]
            taken[name] = torch.nn.functional.pad(taken[name], (0, missing), value=PADDING)
    return replace(queries, **taken, features={name: value[rows] for name, value in queries.features.items()})
