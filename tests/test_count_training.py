"""Training with counts as of a day: what only a recent count tells is learnt, what a later day would betray is not."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from training import CALM, LOSSES, LocalContext, as_rank, config, part_of, weights_of

from convcg.batch import PADDING, ExampleBatch, QueryBatch
from convcg.data.day_counts import DayCounts, day_counts
from convcg.data.encode import PinEncoder
from convcg.data.split import DAY
from convcg.data.tables import RowTable
from convcg.features import FeatureShape, FeatureShapes, Kind
from convcg.model.loss import LossConfig, LossKind, PinShares
from convcg.model.step import OwnPins, Pool
from convcg.model.two_tower import TwoTower
from convcg.train import Trained, train
from convcg.train_step import counts_of_step
from convcg.types import ACTION_CODE, Action

NUM_PINS, NUM_HOT, BATCH, TRAIN_DAYS, LAST_DAY = 60, 3, 48, 30, 60
COUNT = FeatureShape(name="clicks_1d", kind=Kind.COUNT, size=2, action=Action.CLICK, days=1)
SHAPES = FeatureShapes(pin=(FeatureShape(name="pin_id", kind=Kind.ID, size=NUM_PINS), COUNT), user=())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=list(LossKind))
def loss(request: pytest.FixtureRequest) -> LossConfig:
    return LOSSES[request.param]


def pins_with(clicked: list[tuple[int, int]]) -> PinEncoder:
    """The catalogue, clicked as these (pin, day) say."""
    pin, day = (np.array(column) for column in zip(*clicked, strict=True))
    clicks = np.full(len(pin), ACTION_CODE[Action.CLICK], np.int8)
    ids = pa.table({"pin_id": [f"p{row:02d}" for row in range(NUM_PINS)]})
    return PinEncoder(RowTable(ids), SHAPES.pin, DayCounts(day_counts(pin, day * DAY + 5, clicks)))


def hot(day: int) -> np.ndarray:
    """The pins that everybody clicks on a day and buys on the next: others each day."""
    return np.random.default_rng(day).choice(NUM_PINS, NUM_HOT, replace=False)


def examples(target: torch.Tensor, day: torch.Tensor) -> ExampleBatch:
    """Queries that say nothing."""
    count, nothing = len(target), torch.full((len(target), 0), PADDING)
    query = QueryBatch(
        task=torch.zeros(count, dtype=torch.int64),
        surface=torch.zeros(count, dtype=torch.int64),
        subject_pin=torch.full((count,), PADDING),
        query_words=nothing,
        history_pin=nothing,
        history_action=nothing,
        history_surface=nothing,
        history_age=nothing.float(),
        history_dwell=nothing.float(),
        features={},
    )
    return ExampleBatch(
        query=query,
        target=target,
        weight=torch.ones(count),
        user=torch.arange(count),
        negatives=torch.full((count, 0), PADDING),
        day=day,
    )


@cache
def fashion() -> PinEncoder:
    """Hot pins are clicked six times a day, some others once."""
    rng = np.random.default_rng(0)
    clicked = [(int(pin), day) for day in range(LAST_DAY) for pin in np.repeat(hot(day), 6)]
    return pins_with(clicked + [(int(rng.integers(NUM_PINS)), day) for day in range(LAST_DAY) for _ in range(9)])


def fashionable(seed: int, *, days: tuple[int, int] = (1, TRAIN_DAYS)) -> ExampleBatch:
    rng = np.random.default_rng(seed)
    day = rng.integers(*days, BATCH)
    return examples(torch.tensor([int(rng.choice(hot(each - 1))) for each in day]), torch.from_numpy(day))


def recall(towers: TwoTower, pins: PinEncoder, batch: ExampleBatch, *, k: int) -> float:
    """The share of examples whose target is among the `k` best pins as of their day."""
    assert batch.day is not None
    towers.eval()
    found = []
    with torch.no_grad():
        inputs = towers.pin.inputs(pins.all())
        query = towers.query(batch.query, inputs)
        for row, (day, target) in enumerate(zip(batch.day.tolist(), batch.target.tolist(), strict=True)):
            score = query[row] @ towers.pin(inputs, pins.all_counts(day)).T
            found.append(target in score.topk(k).indices)
    return sum(found) / len(found)


def task(pins: PinEncoder, batches: Callable[[int], Iterator[ExampleBatch]], counted: bool = True) -> Trained:
    even = torch.full((NUM_PINS,), 1 / NUM_PINS)
    shown = (
        pins
        if counted
        else PinEncoder(RowTable(pa.table({"pin_id": [str(row) for row in range(NUM_PINS)]})), SHAPES.pin[:1])
    )
    return Trained(
        pins=shown, shares=PinShares(trained=even.expand(2, -1), served=even), batches=batches, num_batches=12
    )


def fashion_batches(epoch: int) -> Iterator[ExampleBatch]:
    return (fashionable(1000 * epoch + batch) for batch in range(12))


def fresh(seed: int = 0) -> TwoTower:
    torch.manual_seed(seed)
    return TwoTower(CALM, SHAPES)


def test_what_only_yesterdays_count_tells_is_learnt_and_holds_on_later_days(loss: LossConfig, tmp_path: Path) -> None:
    later = fashionable(99_999, days=(TRAIN_DAYS + 1, LAST_DAY))
    towers = fresh()
    chance = recall(towers, fashion(), later, k=NUM_HOT)
    assert chance < 0.25  # 0.05 by chance
    train(towers, config(epochs=8), loss, task(fashion(), fashion_batches), LocalContext(tmp_path), None)
    assert recall(towers, fashion(), later, k=NUM_HOT) > 0.8


def own_clicks(*, shift: int) -> tuple[PinEncoder, Callable[[int], Iterator[ExampleBatch]], ExampleBatch]:
    """Targets by chance, whose own clicks are all that is counted, as of days that are `shift` too late."""
    rng = np.random.default_rng(1)
    day, target = np.repeat(np.arange(1, LAST_DAY), 4), rng.integers(0, NUM_PINS, 4 * (LAST_DAY - 1))
    pins = pins_with(list(zip(target.tolist(), day.tolist(), strict=True)))
    early = np.flatnonzero(day < TRAIN_DAYS)

    def of(rows: np.ndarray) -> ExampleBatch:
        return examples(torch.from_numpy(target[rows]), torch.from_numpy(day[rows] + shift))

    def batches(epoch: int) -> Iterator[ExampleBatch]:
        return (of(np.random.default_rng(100 * epoch + batch).choice(early, BATCH)) for batch in range(12))

    return pins, batches, of(np.flatnonzero(day > TRAIN_DAYS))


def test_a_target_does_not_show_in_the_counts_of_its_own_day(loss: LossConfig, tmp_path: Path) -> None:
    """The day after would give it away: that is the check that the plant would be seen."""
    recalls, losses = {}, {}
    for shift in (0, 1):
        pins, batches, held_out = own_clicks(shift=shift)
        towers, context = fresh(), LocalContext(tmp_path / str(shift))
        train(towers, config(epochs=8), loss, task(pins, batches), context, None)
        recalls[shift] = recall(towers, pins, held_out, k=6)
        losses[shift] = context.logged[-2][1]["loss"]
    assert recalls[0] < 0.2  # chance: 0.1
    assert recalls[1] > 0.9
    assert losses[0] > 3.6 > losses[1]


def test_positives_are_seen_as_of_their_own_days_and_all_others_as_of_one_day() -> None:
    """Every count differs: a pin is clicked as often on a day as its row and the day say.

    A row's other own pins are seen as of its day, too; what is no pin is seen as the target.
    """
    pins = pins_with([(pin, day) for pin in range(6) for day in range(5) for _ in range(1 + pin + 7 * day)])
    batch = examples(torch.tensor([3, 3, 0]), torch.tensor([1, 4, 2]))
    nobody = torch.zeros(3, dtype=torch.int64)
    rows = torch.tensor([3, 3, 0, 5, 3])
    pool = Pool(rows=rows, num_in_batch=3, num_served=0, user=nobody, task=nobody)
    own = OwnPins(rows=torch.tensor([[3, 1], [3, 2], [0, PADDING]]))
    drawn = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found = counts_of_step(pins, batch.day, own, pool, batch.day, generator)
        of_own, others = ((each.exp() - 1).round().int().squeeze(-1).tolist() for each in (found.own, found.others))
        assert of_own == [[1 + 3, 1 + 1], [1 + 3 + 21, 1 + 2 + 21], [1 + 7, 1 + 7]]
        assert others[:3] == [row[0] for row in of_own]
        day = {6: 1, 27: 4, 13: 2}[others[3]]
        assert others[4] == 4 + 7 * (day - 1)
        whole = counts_of_step(pins, batch.day, own, None, batch.day, torch.Generator().manual_seed(seed))
        assert torch.equal(whole.own, found.own)
        assert torch.equal(whole.others, pins.all_counts(day))
        drawn.add(day)
    assert drawn == {1, 2, 4}


def test_a_resumed_run_with_counts_ends_with_the_same_weights_bit_for_bit(loss: LossConfig, tmp_path: Path) -> None:
    towers, context = fresh(), LocalContext(tmp_path / "whole")
    train(towers, config(), loss, task(fashion(), fashion_batches), context, None)
    assert towers.pin.counts is not None
    assert towers.pin.counts.weight.abs().min() > 0
    for checkpoint in context.checkpoints():
        resumed, other = fresh(seed=7), LocalContext(tmp_path / f"from-{checkpoint.name}")
        train(resumed, config(), loss, task(fashion(), fashion_batches), other, checkpoint)
        found = weights_of(resumed)
        assert [name for name, value in weights_of(towers).items() if not torch.equal(value, found[name])] == []


def test_days_mean_nothing_where_nothing_is_counted(loss: LossConfig, tmp_path: Path) -> None:
    ends = []
    for kept in (True, False):
        torch.manual_seed(0)
        towers = TwoTower(CALM, FeatureShapes(pin=SHAPES.pin[:1], user=()))
        batches = lambda epoch, kept=kept: (  # noqa: E731
            batch if kept else replace(batch, day=None) for batch in fashion_batches(epoch)
        )
        uncounted = task(fashion(), batches, counted=False)
        train(towers, config(epochs=1), loss, uncounted, LocalContext(tmp_path / str(kept)), None)
        ends.append(weights_of(towers))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def train_with_counts_as_rank(rank: int, world_size: int, directory: str) -> None:
    """What one of several processes does: train under both losses on its part of every batch."""
    with as_rank(rank, world_size, directory, batch=BATCH) as own:

        def mine(epoch: int) -> Iterator[ExampleBatch]:
            return (part_of(batch, own) for batch in fashion_batches(epoch))

        for kind, loss in LOSSES.items():
            towers = fresh(seed=rank)
            context = LocalContext(Path(directory) / kind / str(rank), rank, world_size)
            train(towers, config(epochs=1), loss, task(fashion(), mine), context, None)
            save_file(weights_of(towers), f"{directory}/{kind}-{rank}.safetensors")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(train_with_counts_as_rank, args=(2, str(directory)), nprocs=2)
    return directory


def test_two_processes_count_as_of_the_days_that_one_would(
    loss: LossConfig, two_processes: Path, tmp_path: Path
) -> None:
    alone = fresh()
    train(alone, config(epochs=1), loss, task(fashion(), fashion_batches), LocalContext(tmp_path), None)
    ranks = [load_file(two_processes / f"{loss.kind}-{rank}.safetensors") for rank in range(2)]
    for name, value in weights_of(alone).items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], value, rtol=0, atol=1e-5)
