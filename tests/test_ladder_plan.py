"""Ladders: what their steps come to, and what of them is no ladder."""

from pathlib import Path

import pytest

from convcg.config import load_config
from convcg.errors import ConfigError
from convcg.ladder import Direction, Ladder, Rung, plan, read_ladder

STEPS = [{"name": "Wide", "set": {"model.dim": 32}}, {"name": "two epochs", "set": {"train.epochs": 2}}]
SMOKE = Ladder.model_validate({"start": "smoke", "steps": STEPS})


def told(rungs: tuple[Rung, ...]) -> list[tuple[str, str, str | None]]:
    return [(rung.label, rung.setting, rung.against.label if rung.against else None) for rung in rungs]


def test_the_ladder_goes_from_2023_over_2025_to_best() -> None:
    planned = plan(read_ladder("ladder"))  # refuses milestones that are not their recipes
    settings = {setting.name: setting.config for setting in planned.settings}
    assert settings["2023"] == load_config("2023")
    assert settings["upto-uniform-negatives"] == load_config("2025")
    assert settings["upto-history-transformer"] == load_config("best")
    assert planned.settings[0].name == "2023"
    steps = len(read_ladder("ladder").steps)
    assert len(planned.tables[Direction.CUMULATIVE]) == len(planned.tables[Direction.ADD]) == 1 + steps
    left_out = [rung.label for rung in planned.tables[Direction.OUT][1:]]
    assert "best - one head" in left_out
    assert "best - parallel towers" not in left_out  # the summed inputs bring towers of their own


def test_the_designs_are_the_recipes() -> None:
    settings = [setting.config for setting in plan(read_ladder("ladder_designs")).settings]
    assert [settings[at] for at in (0, 1, 3)] == [load_config(name) for name in ("2023", "2025", "best")]


def test_vectors_of_pins_are_variants_of_taobao() -> None:
    log = ["data.events=log.parquet"]
    planned = plan(read_ladder("ladder_graph"), overrides=log)
    assert planned.settings[0].config == load_config("taobao", log)


def test_the_claims_are_variants_of_best() -> None:
    planned = plan(read_ladder("ladder_claims"))
    assert planned.settings[0].config == load_config("best")
    assert len(planned.settings) == len(read_ladder("ladder_claims").variants) + 1


def test_2025_and_best_ask_what_2023_asks() -> None:
    first = load_config("2023")
    for name in ("2025", "best"):
        config = load_config(name)
        assert (config.world, config.split, config.history) == (first.world, first.split, first.history)
        assert config.examples.model_copy(update={"dwell": first.examples.dwell}) == first.examples


def test_steps_are_measured_in_both_directions() -> None:
    planned = plan(SMOKE)
    assert told(planned.tables[Direction.CUMULATIVE]) == [
        ("smoke", "smoke", None), ("+ Wide", "upto-wide", "smoke"), ("+ two epochs", "upto-two-epochs", "+ Wide"),
    ]  # fmt: skip
    # What is one setting is run once: the first step alone is the first rung, and without it the second one alone.
    assert told(planned.tables[Direction.ADD]) == [
        ("smoke", "smoke", None),
        ("smoke + Wide", "upto-wide", "smoke"),
        ("smoke + two epochs", "add-two-epochs", "smoke"),
    ]
    assert told(planned.tables[Direction.OUT]) == [
        ("all steps", "upto-two-epochs", None),
        ("all steps - Wide", "add-two-epochs", "all steps"),
        ("all steps - two epochs", "upto-wide", "all steps"),
    ]
    assert [setting.name for setting in planned.settings] == ["smoke", "upto-wide", "upto-two-epochs", "add-two-epochs"]


def test_a_direction_alone_runs_what_it_needs() -> None:
    planned = plan(SMOKE, directions=[Direction.OUT])
    assert [*planned.tables] == [Direction.OUT]
    assert [setting.config.train.epochs for setting in planned.settings] == [1, 2, 2, 1]


def test_overrides_hold_in_every_run() -> None:
    planned = plan(SMOKE, overrides=["model.prefixes=[4]", "world.num_users=150"])
    assert {setting.config.model.prefixes for setting in planned.settings} == {(4,)}
    assert {setting.config.world.num_users for setting in planned.settings} == {150}


def test_variants_are_compared_with_the_start() -> None:
    ladder = Ladder.model_validate(
        {"start": "smoke", "variants": {"wide": {"model.dim": 32}, "Long!": {"train.epochs": 9}}}
    )
    assert told(plan(ladder).tables[Direction.VARIANTS]) == [
        ("smoke", "smoke", None), ("wide", "wide", "smoke"), ("Long!", "long", "smoke"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start: smoke", "it must have either steps or variants"),
        ("{start: smoke, steps: [{name: a, set: {}}, {name: a, set: {}}]}", "two steps are named a"),
        ("{start: smoke, milestones: {best: b}, steps: [{name: a, set: {}}]}", "milestones name b, which is no step"),
        ("{start: smoke, steps: [{name: a}]}", "steps.0.set: Field required"),
        ("steps: [", "no valid YAML"),
        ("just words", "cannot be used"),
        ("{start: smoke, steps: [{name: a, set: {train.epochs: 1}}]}", "'smoke \\+ a' changes nothing of 'smoke'"),
        ("{start: smoke, variants: {a: {train.epoch: 1}}}", "a: .*train.epoch is no known key. Did you mean epochs"),
        (
            "{start: smoke, milestones: {demo: a}, steps: [{name: a, set: {train.epochs: 5}}]}",
            "after 'a' the ladder's settings are not those of the recipe demo: .*train.batch_size is 256, not 512",
        ),
        ("{start: nowhere, variants: {a: {train.epochs: 9}}}", "recipe 'nowhere' is not known"),
    ],
)
def test_what_is_no_ladder_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        plan(read_ladder(str(tmp_path / "mine.yaml")), directions=[Direction.ADD])


def test_a_name_that_is_no_ladder_is_said() -> None:
    with pytest.raises(
        ConfigError,
        match="ladder 'demo' is not known. Ladders: ladder, ladder_claims, .*; or give a .yaml file",
    ):
        read_ladder("demo")
