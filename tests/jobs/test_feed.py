"""What feeds training: every batch holds the same share of each task, and comes again when it is asked for again."""

from itertools import islice

import pytest
import torch
from training import planted

from convcg.batch import ExampleBatch
from convcg.data import prepared
from convcg.data.prepared import Prepared
from convcg.errors import ConfigError
from convcg.storage import locate
from convcg.types import TASK_CODE, Task
from ray_jobs import prepare
from ray_jobs.feed import Feed, Mix, examples_of


def mix(examples: dict[str, int], shares: dict[str, float] | None = None, *, workers: int = 1, batch: int = 100) -> Mix:
    return Mix.of(examples, batch_size=batch, shares=shares or {}, max_repeats=4, world_size=workers)


def test_without_shares_a_batch_is_a_small_copy_of_the_whole() -> None:
    natural = mix({"conversion": 2000, "engagement": 8000})
    assert natural.rows == {"conversion": 20, "engagement": 80}
    assert natural.num_batches == 100
    assert natural.share("conversion") == pytest.approx(0.2)


def test_a_task_without_examples_is_left_out() -> None:
    alone = mix({"conversion": 250, "engagement": 0})
    assert (alone.rows, alone.num_batches) == ({"conversion": 100}, 2)
    assert alone.share("engagement") == 0


def test_with_shares_the_rarer_task_repeats_but_not_for_ever() -> None:
    examples = {"conversion": 1000, "engagement": 10_000}
    half = mix(examples, {"conversion": 0.2, "engagement": 0.8})
    assert half.rows == {"conversion": 20, "engagement": 80}
    assert half.num_batches == 125  # one pass over the engagements, two and a half over the conversions
    most = mix(examples, {"conversion": 1, "engagement": 1})
    assert most.rows == {"conversion": 50, "engagement": 50}
    assert most.num_batches == 80  # four passes over the conversions


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("batch", [1, 7, 100, 4096])
def test_every_worker_gets_as_many_rows_of_every_task(workers: int, batch: int) -> None:
    found = mix({"conversion": 37, "engagement": 1001}, workers=workers, batch=batch)
    assert all(number % workers == 0 and number >= workers for number in found.rows.values())
    assert sum(found.rows.values()) <= max(batch, 2 * workers)
    assert all(
        found.num_batches * number <= {"conversion": 37, "engagement": 1001}[t] for t, number in found.rows.items()
    )


def test_a_log_smaller_than_a_batch_is_one_batch() -> None:
    assert mix({"conversion": 3, "engagement": 9}).num_batches == 1


def test_a_share_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="asks for engagement examples, but there are none"):
        mix({"conversion": 10, "engagement": 0}, {"engagement": 0.5, "conversion": 0.5})


@pytest.fixture(scope="module")
def data(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    workdir = tmp_path_factory.mktemp("feed")
    weights = "examples.weights={checkout: 1.0, add_to_cart: 1.0, click: 0.1}"
    assert prepare.main(["--recipe", "smoke", "--workdir", str(workdir), "--set", weights]) == 0
    return Prepared.open(locate(workdir / "prepared"))


def feed(data: Prepared, mix: Mix, *, shuffle_buffer: int = 100_000) -> Feed:
    return Feed(
        shards={task: examples_of(data, task).iterator() for task in mix.rows},
        examples=data.summary().num_train,
        mix=mix,
        features=data.encoders().shapes.user,
        world_size=1,
        shuffle_buffer=shuffle_buffer,
        seed=3,
    )


#: With the first every task is streamed in every pass, with the second it is held after the first one.
both_ways = pytest.mark.parametrize("shuffle_buffer", [100, 100_000])


@pytest.mark.ray
@both_ways
def test_batches_hold_both_tasks_and_can_be_replayed(data: Prepared, shuffle_buffer: int) -> None:
    counts = data.summary().num_train
    shares = {Task.CONVERSION.value: 0.5, Task.ENGAGEMENT.value: 0.5}
    asked = Mix.of(counts, batch_size=64, shares=shares, max_repeats=4, world_size=1)
    assert asked.num_batches * 32 > counts[Task.CONVERSION]  # so that conversions repeat
    batches = list(feed(data, asked, shuffle_buffer=shuffle_buffer)(epoch=1))
    assert len(batches) == asked.num_batches
    bought = {row for file in data.files(Task.CONVERSION) for row in prepared.read_part(file)["target"].to_pylist()}
    for batch in batches:
        assert len(batch) == 64
        assert set(batch.target[:32].tolist()) <= bought
        assert (batch.weight[:32] == 1.0).all()
        assert batch.query.task.tolist() == [TASK_CODE[Task.CONVERSION]] * 32 + [TASK_CODE[Task.ENGAGEMENT]] * 32
        assert (batch.weight[32:] < 0.6).all()
    assert any((batch.negatives >= 0).any() for batch in batches)
    again = list(islice(feed(data, asked, shuffle_buffer=shuffle_buffer)(epoch=1), 40))
    assert all(torch.equal(one.target, other.target) for one, other in zip(batches, again, strict=False))
    assert all(
        torch.equal(one.query.history_pin, other.query.history_pin) for one, other in zip(batches, again, strict=False)
    )
    other = next(iter(feed(data, asked, shuffle_buffer=shuffle_buffer)(epoch=2)))
    assert not torch.equal(other.target, batches[0].target)


@pytest.mark.ray
@both_ways
def test_an_epoch_in_natural_shares_sees_almost_every_example_once(data: Prepared, shuffle_buffer: int) -> None:
    counts = data.summary().num_train
    natural = Mix.of(counts, batch_size=64, shares={}, max_repeats=4, world_size=1)
    batches = list(feed(data, natural, shuffle_buffer=shuffle_buffer)(epoch=0))
    seen = sum(len(batch) for batch in batches)
    assert 0.97 * sum(counts.values()) < seen <= sum(counts.values())


def test_batches_are_padded_to_the_longest_history() -> None:
    one, other = planted(0, count=3), planted(1, count=2)
    wide = torch.nn.functional.pad(other.query.history_pin, (0, 2), value=7)
    columns = {name: getattr(other.query, name) for name in vars(other.query)}
    for name in ("history_action", "history_surface", "history_age", "history_dwell"):
        columns[name] = torch.nn.functional.pad(columns[name], (0, 2), value=1)
    other = type(other)(**{**vars(other), "query": type(other.query)(**{**columns, "history_pin": wide})})
    both = ExampleBatch.concatenated([one, other])
    assert both.query.history_pin.shape == (5, 5)
    assert both.query.history_pin[:3, 3:].unique().tolist() == [-1]
    assert torch.equal(both.query.history_pin[3:], wide)
    assert torch.equal(both.target, torch.cat([one.target, other.target]))
