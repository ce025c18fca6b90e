"""The training loop: it learns what is planted, resumes bit for bit, stops on a bad loss, and ranks add up to one."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training import (
    BATCH,
    CALM,
    EVERYTHING,
    LOSSES,
    MODEL,
    NUM_BATCHES,
    NUM_GROUPS,
    TWO_HEADS,
    LocalContext,
    config,
    fresh_towers,
    planted,
    recall_at_1,
    task,
    train_as_rank,
    weights_of,
)

from convcg.batch import ExampleBatch
from convcg.errors import TrainingError
from convcg.model.loss import LossConfig, LossKind
from convcg.model.towers import HeadKind
from convcg.train import Keep, Precision, hard_weight, learning_rate, train

LONG = config(epochs=20)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps this small only wait for each other on several threads, for ever on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


#: One of each advertiser loss, under either kind of softmax.
MANY = {name: loss for name, loss in EVERYTHING.items() if not name.endswith("none")}


@pytest.fixture(params=list(LossKind))
def loss(request: pytest.FixtureRequest) -> LossConfig:
    return LOSSES[request.param]


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_what_is_planted_is_found(loss: LossConfig, tmp_path: Path) -> None:
    towers = fresh_towers(CALM)
    held_out = planted(-1, count=500)
    assert recall_at_1(towers, held_out) < 0.5
    train(towers, LONG, loss, task(), LocalContext(tmp_path), None)
    assert recall_at_1(towers, held_out) == 1.0


def test_where_nothing_is_planted_nothing_is_found(loss: LossConfig, tmp_path: Path) -> None:
    towers = fresh_towers(CALM)
    nothing = task(lambda epoch: (planted(1000 * epoch + batch, shuffled=True) for batch in range(NUM_BATCHES)))
    train(towers, LONG, loss, nothing, LocalContext(tmp_path), None)
    assert recall_at_1(towers, planted(-1, count=2000, shuffled=True)) == pytest.approx(1 / NUM_GROUPS, abs=0.05)


@pytest.mark.parametrize("name", [name for name in MANY if name.startswith("sampled")])
def test_what_is_planted_is_found_beside_an_advertiser_loss(name: str, tmp_path: Path) -> None:
    towers = fresh_towers(CALM)
    train(towers, LONG, MANY[name], task(), LocalContext(tmp_path), None)
    assert recall_at_1(towers, planted(-1, count=500)) == 1.0


def test_what_is_planted_is_found_in_bfloat16_and_with_a_falling_learning_rate(tmp_path: Path) -> None:
    towers = fresh_towers(CALM)
    falling = LONG.model_copy(update={"precision": Precision.BFLOAT16, "final_learning_rate_share": 0.05})
    train(towers, falling, LOSSES[LossKind.SAMPLED_SOFTMAX], task(), LocalContext(tmp_path), None)
    assert recall_at_1(towers, planted(-1, count=500)) == 1.0


def test_examples_without_weight_teach_nothing(tmp_path: Path, loss: LossConfig) -> None:
    def half(epoch: int):
        for batch in task().batches(epoch):
            batch.weight[: BATCH // 2] = 0
            batch.target[: BATCH // 2] = 0
            yield batch

    towers = fresh_towers(CALM)
    train(towers, LONG, loss, task(half), LocalContext(tmp_path), None)
    assert recall_at_1(towers, planted(-1, count=500)) == 1.0


def test_a_run_that_is_resumed_anywhere_ends_with_the_same_weights_bit_for_bit(
    loss: LossConfig, tmp_path: Path
) -> None:
    towers, context = fresh_towers(), LocalContext(tmp_path / "whole")
    train(towers, config(), loss, task(), context, None)
    checkpoints = context.checkpoints()
    # Every fifth step, and after each of two epochs of twelve.
    assert [path.name.split("-")[0] for path in checkpoints] == ["0005", "0010", "0012", "0015", "0020", "0024"]
    for checkpoint in checkpoints:
        resumed, other = fresh_towers(seed=7), LocalContext(tmp_path / f"from-{checkpoint.name}")
        train(resumed, config(), loss, task(), other, checkpoint)
        assert differing(weights_of(resumed), weights_of(towers)) == [], checkpoint
        if other.checkpoints():
            last = load_file(other.checkpoints()[-1] / "optimizer.safetensors")
            assert differing(last, load_file(checkpoints[-1] / "optimizer.safetensors")) == []


@pytest.mark.parametrize("name", list(MANY))
@pytest.mark.parametrize("heads", list(HeadKind))
def test_a_resumed_run_with_an_advertiser_loss_ends_with_the_same_weights_bit_for_bit(
    name: str, heads: HeadKind, tmp_path: Path
) -> None:
    """Also what the loss trains beside the towers: prototypes and their running means."""
    model = MODEL.model_copy(update={"heads": heads, "prefixes": (8,)})
    settings = config(checkpoint_every_steps=7, final_learning_rate_share=0.1)
    towers, context = fresh_towers(model), LocalContext(tmp_path / "whole")
    train(towers, settings, MANY[name], task(), context, None)
    checkpoints = context.checkpoints()
    for checkpoint in checkpoints[:-1]:
        resumed, other = fresh_towers(model, seed=7), LocalContext(tmp_path / f"from-{checkpoint.name}")
        train(resumed, settings, MANY[name], task(), other, checkpoint)
        assert differing(weights_of(resumed), weights_of(towers)) == [], checkpoint
        for file in ("loss.safetensors", "optimizer.safetensors"):
            assert differing(load_file(other.checkpoints()[-1] / file), load_file(checkpoints[-1] / file)) == []
    own = load_file(checkpoints[-1] / "loss.safetensors")
    assert sorted(own) == (["mean", "table.weight"] if "prototype" in name else [])


def test_a_checkpoint_holds_the_weights_of_its_step(loss: LossConfig, tmp_path: Path) -> None:
    towers, context = fresh_towers(), LocalContext(tmp_path)
    train(towers, config(epochs=1), loss, task(), context, None)
    assert differing(load_file(context.checkpoints()[-1] / "model.safetensors"), weights_of(towers)) == []
    assert differing(load_file(context.checkpoints()[0] / "model.safetensors"), weights_of(towers)) != []


def test_another_seed_ends_elsewhere_and_the_same_one_does_not(loss: LossConfig, tmp_path: Path) -> None:
    def trained(name: str, **parts: int) -> dict[str, Tensor]:
        towers = fresh_towers()
        train(towers, config(epochs=1, **parts), loss, task(), LocalContext(tmp_path / name), None)
        return weights_of(towers)

    assert differing(trained("a"), trained("b")) == []
    assert differing(trained("a2"), trained("c", seed=1)) != []


@pytest.mark.parametrize("log_every_steps", [1, 1000])
def test_a_loss_that_is_not_finite_stops_the_run_before_a_checkpoint(log_every_steps: int, tmp_path: Path) -> None:
    context = LocalContext(tmp_path)
    huge = config(learning_rate=1e30, warmup_steps=0, log_every_steps=log_every_steps)
    with pytest.raises(TrainingError, match=r"the loss is nan.*Lower train.learning_rate \(now 1e\+30\)"):
        train(fresh_towers(), huge, LOSSES[LossKind.FULL_SOFTMAX], task(), context, None)
    assert context.checkpoints() == []


def test_no_full_batch_is_an_error(tmp_path: Path) -> None:
    context = LocalContext(tmp_path)
    with pytest.raises(TrainingError, match=r"no full batch"):
        train(fresh_towers(), config(), LOSSES[LossKind.FULL_SOFTMAX], task(lambda epoch: iter(())), context, None)
    assert context.checkpoints() == []


def test_a_checkpoint_of_another_model_or_version_is_refused(tmp_path: Path) -> None:
    context = LocalContext(tmp_path)
    full = LOSSES[LossKind.FULL_SOFTMAX]
    train(fresh_towers(), config(epochs=1), full, task(), context, None)
    checkpoint = context.checkpoints()[0]
    with pytest.raises(TrainingError, match=f"{checkpoint.name} does not fit"):
        train(fresh_towers(MODEL.model_copy(update={"dim": 8})), config(), full, task(), context, checkpoint)
    with pytest.raises(TrainingError, match=f"{checkpoint.name} does not fit"):
        train(fresh_towers(), config(), MANY["full_softmax-prototype"], task(), context, checkpoint)
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    progress = (other / "progress.json").read_text()
    (other / "progress.json").write_text(progress.replace('"checkpoint_version": 2', '"checkpoint_version": 9'))
    with pytest.raises(TrainingError, match=r"other .*version 9.*Delete the run's directory"):
        train(fresh_towers(), config(), full, task(), context, other)


def test_metrics_are_logged_at_their_steps_and_validation_after_each_epoch(tmp_path: Path) -> None:
    recalls, context = iter([0.5, 0.75]), LocalContext(tmp_path)
    validated = task(validate=lambda towers: next(recalls))
    train(fresh_towers(), config(validation_queries=9), LOSSES[LossKind.FULL_SOFTMAX], validated, context, None)
    steps = [step for step, metrics in context.logged if "loss" in metrics]
    assert steps == [4, 8, 12, 16, 20, 24]
    after = [(step, row["validation_recall_at_100"]) for step, row in context.logged if "loss" not in row]
    assert after == [(12, 0.5), (24, 0.75)]
    assert [row["validation_recall_at_100"] for row in context.saved] == [-1, -1, 0.5, -1, -1, 0.75]
    losses = [metrics["loss"] for _, metrics in context.logged if "loss" in metrics]
    assert losses[0] > losses[-1] > 0


@pytest.mark.parametrize(("keep", "epoch"), [(Keep.BEST, 1), (Keep.LAST, 2)])
def test_the_model_is_the_checkpoint_that_keep_names(keep: Keep, epoch: int, tmp_path: Path) -> None:
    recalls, context = iter([0.75, 0.5]), LocalContext(tmp_path)
    validated, settings = task(validate=lambda towers: next(recalls)), config(validation_queries=9, keep=keep)
    train(fresh_towers(), settings, LOSSES[LossKind.FULL_SOFTMAX], validated, context, None)
    assert max(context.saved, key=lambda row: (row["score"], row["step"]))["epoch"] == epoch


def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    falling = config(warmup_steps=10, learning_rate=2.0, final_learning_rate_share=0.1)
    assert learning_rate(falling, 1, 110) == pytest.approx(0.2)
    assert learning_rate(falling, 10, 110) == pytest.approx(2.0)
    assert learning_rate(falling, 60, 110) == pytest.approx(2 * 0.55)
    assert learning_rate(falling, 110, 110) == pytest.approx(0.2)
    assert learning_rate(falling, 300, 110) == pytest.approx(0.2)
    constant = config(warmup_steps=0, learning_rate=2.0)
    assert [learning_rate(constant, step, 10) for step in (1, 5, 10)] == [2.0] * 3


def test_hard_negatives_come_in_late_and_in_a_line() -> None:
    loss = LossConfig(hard_weight=0.4, hard_from=0.2)
    found = [hard_weight(loss, step, 100) for step in (1, 20, 60, 100)]
    assert found == pytest.approx([0.0, 0.0, 0.2, 0.4])
    assert hard_weight(LossConfig(), 100, 100) == 0


def test_the_temperature_does_not_decay(tmp_path: Path) -> None:
    """Where nothing weighs anything there is no gradient: what changes is decay."""

    def nothing(epoch: int) -> Iterator[ExampleBatch]:
        return (replace(batch, weight=torch.zeros(BATCH)) for batch in task().batches(epoch))

    towers = fresh_towers(CALM)
    table, temperature = towers.pin.features.id_table().weight, towers.log_temperature
    before = table.norm().item(), temperature.item()
    train(towers, config(weight_decay=0.1), LOSSES[LossKind.FULL_SOFTMAX], task(nothing), LocalContext(tmp_path), None)
    assert table.norm().item() < before[0]
    assert temperature.item() == before[1]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train_as_rank` leaves when two processes run it, each on half of every batch."""
    directory = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(train_as_rank, args=(2, str(directory)), nprocs=2)
    return directory


def test_two_processes_train_the_weights_of_one_with_the_whole_batch(
    loss: LossConfig, two_processes: Path, tmp_path: Path
) -> None:
    alone = fresh_towers(CALM)
    train(alone, config(), loss, task(), LocalContext(tmp_path), None)
    ranks = [load_file(two_processes / f"{loss.kind}-{rank}.safetensors") for rank in range(2)]
    assert differing(*ranks) == []
    untrained = weights_of(fresh_towers(CALM))
    for name, value in weights_of(alone).items():
        torch.testing.assert_close(
            ranks[0][name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert len(differing(untrained, ranks[0])) > 5


@pytest.mark.parametrize("name", list(EVERYTHING))
def test_two_processes_train_as_one_with_every_loss_and_two_heads(
    name: str, two_processes: Path, tmp_path: Path
) -> None:
    alone = fresh_towers(TWO_HEADS)
    train(alone, config(epochs=1), EVERYTHING[name], task(), LocalContext(tmp_path), None)
    ranks = [load_file(two_processes / f"{name}-{rank}.safetensors") for rank in range(2)]
    assert differing(*ranks) == []
    for parameter, value in weights_of(alone).items():
        torch.testing.assert_close(
            ranks[0][parameter], value, rtol=0, atol=2e-5, msg=lambda text, which=parameter: f"{which}: {text}"
        )


def test_a_loss_that_one_rank_finds_not_finite_stops_all_before_a_checkpoint(two_processes: Path) -> None:
    assert all((two_processes / f"stopped-{rank}").exists() for rank in range(2))
    assert [path.name.split("-")[0] for path in sorted((two_processes / "poisoned" / "0").iterdir())] == [
        "0005",
        "0010",
    ]
