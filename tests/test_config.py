"""Recipes and overrides: every one loads, and whatever is wrong is named together with what would be right."""

from pathlib import Path

import pytest
import yaml

from convcg.config import RunConfig, dump_yaml, load_config, override
from convcg.errors import ConfigError
from convcg.features import Kind
from convcg.recipes import RECIPES
from convcg.types import Action


def loaded(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    return load_config(str(recipe), overrides)


def message(*overrides: str, plain: dict | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        override(plain or {}, overrides, source="here")
    return str(caught.value)


def test_there_are_recipes() -> None:
    assert {"smoke", "demo"} <= RECIPES.keys()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_loads_and_survives_yaml(recipe: str, tmp_path: Path) -> None:
    config = load_config(recipe)
    assert config != RunConfig()
    assert loaded(tmp_path, dump_yaml(config)) == config


def test_an_empty_recipe_is_the_default(tmp_path: Path) -> None:
    assert loaded(tmp_path, "") == loaded(tmp_path, "# nothing\n") == RunConfig()
    assert loaded(tmp_path, dump_yaml(RunConfig())) == RunConfig()


def test_what_yaml_writes_another_way_survives_it(tmp_path: Path) -> None:
    config = override(
        {},
        [
            "evaluate.gate={100: 0.25, 20: 0.1}",
            "world.start=2024-02-29",
            "retrieval.search.max_per_advertiser=3",
            "data.events=s3://bucket/events?region=eu",
            "examples.weights={checkout: 1, click: 0.1}",
            "features.user=[{name: age, kind: number, log: true}]",
            "model.query_tower.hidden=[]",
        ],
        source="here",
    )
    assert loaded(tmp_path, dump_yaml(config)) == config
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.evaluate.gate == {100: 0.25, 20: 0.1}
    assert config.examples.weights == {Action.CHECKOUT: 1.0, Action.CLICK: 0.1}
    assert config.features.user[0].kind is Kind.NUMBER


@pytest.mark.parametrize(
    ("key", "near", "valid"),
    [
        ("modle", "model", "data, world, split"),
        ("train.learning_rat", "learning_rate", "epochs, batch_size"),
        ("model.query_tower.hiden", "hidden", "kind, hidden, dropout"),
        ("retrieval.search.max_per_advertisers", "max_per_advertiser", "k, max_k"),
    ],
)
def test_an_unknown_key_names_the_valid_ones_and_a_near_match(key: str, near: str, valid: str) -> None:
    text = message(f"{key}=1")
    assert f"{key} is no known key" in text
    assert f"Did you mean {near}?" in text
    assert f"Valid keys: {valid}" in text


def test_an_unknown_key_inside_a_list_names_the_valid_ones_too() -> None:
    text = message(plain={"features": {"pin": [{"name": "pin_id", "kind": "id"}, {"name": "price", "knd": "number"}]}})
    assert "features.pin.1.knd is no known key. Did you mean kind? Valid keys: name, kind, log, action, days, " in text


def test_a_key_that_is_like_no_other_gets_no_hint() -> None:
    text = message("train.qqqq=1")
    assert "Did you mean" not in text
    assert "Valid keys: epochs" in text


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("train.epochs=0", "greater than or equal to 1"),
        ("train.epochs=many", "valid integer"),
        ("train.epochs=1.5", "integer"),
        ("loss.kind=hinge", "'full_softmax' or 'sampled_softmax'"),
        ("model.temperature=0.9", "max_temperature"),
        ("examples.weights.click=-1", "greater than or equal to 0"),
        ("examples.weights.click=.nan", "finite"),
        ("examples.weights={}", "at least 1"),
        ("examples.weights.buy=1", "'checkout'"),
        ("features.pin=[]", "at least 1"),
        ("features.pin=[{name: a, kind: id}, {name: a, kind: id}]", "'a' is named twice"),
        ("retrieval.search.k=5000", "above max_k"),
        ("evaluate.ks=[]", "at least 1"),
        ("train=5", "dictionary"),
        ("serve.port=70000", "65535"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_the_rule(setting: str, rule: str) -> None:
    text = message(setting)
    path = setting.split("=")[0].split(".")
    assert text.startswith(f"here: {path[0]}")
    assert path[-1] in text
    assert rule in text


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (["features.pin=[{name: near, kind: graph}]"], "the feature 'near' of kind graph needs vectors of pins"),
        (["model.pin_start=graph"], "Set graph.kind to spectral"),
        (["model.pin_start=graph", "graph.kind=spectral", "graph.dim=7"], "graph.dim is 7, the pins' is 64"),
    ],
)
def test_what_reads_graph_vectors_needs_the_stage_that_makes_them(settings: list[str], rule: str) -> None:
    assert rule in message(*settings)


def test_all_errors_are_told_at_once() -> None:
    text = message("train.epochs=0", "modle=1", "loss.kind=hinge")
    assert text.startswith("here: ")
    assert len(text.splitlines()) == 3
    assert all(part in text for part in ("train.epochs = 0", "modle is no known key", "loss.kind = 'hinge'"))


def test_overrides_reach_any_depth_and_the_last_wins(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, "train: {epochs: 3, seed: 5}", "train.epochs=4", "train.epochs=7", "model.pin_tower.dropout=0.5"
    )
    assert (config.train.epochs, config.train.seed) == (7, 5)
    assert config.model.pin_tower.dropout == 0.5
    assert config.model.pin_tower.hidden == RunConfig().model.pin_tower.hidden


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", " 0.0001 "])
def test_numbers_may_be_written_in_any_way(text: str) -> None:
    assert override({}, [f"train.learning_rate={text}"], source="here").train.learning_rate == 1e-4


def test_an_override_may_hold_an_equals_sign_or_be_empty() -> None:
    config = override({"data": {"pins": "x"}}, ["data.events=s3://b/k?a=b", "data.pins="], source="here")
    assert (config.data.events, config.data.pins) == ("s3://b/k?a=b", None)


def test_an_override_leaves_the_given_settings_alone() -> None:
    plain = {"train": {"epochs": 3}}
    assert override(plain, ["train.epochs=4", "model.dim=8"], source="here").train.epochs == 4
    assert plain == {"train": {"epochs": 3}}


def test_an_override_fills_a_part_that_is_named_but_empty(tmp_path: Path) -> None:
    assert loaded(tmp_path, "train:\nmodel: {dim: 8}", "train.epochs=4").train.epochs == 4


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("train.epochs", "write it as key.name=value"),
        ("=5", "write it as key.name=value"),
        ("", "write it as key.name=value"),
        ("train.epochs=[1", "no YAML"),
        ("train.epochs.more=1", "train.epochs is a value"),
    ],
)
def test_a_bad_override_is_shown_with_the_rule(text: str, rule: str) -> None:
    plain = {"train": {"epochs": 1}}
    found = message(text, plain=plain)
    assert "--set" in found
    assert text in found
    assert rule in found


def test_a_recipe_that_is_not_known_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match=rf"'smok' is not known.*{', '.join(RECIPES)}"):
        load_config("smok")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"train: [", "no valid YAML"),
        (b"- a\n- b\n", "holds list; it must be a mapping"),
        (b"just words", "holds str"),
        (b"\xff\xfe\xfa", "cannot read"),
        (None, "cannot read"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_named(content: bytes | None, rule: str, tmp_path: Path) -> None:
    recipe = tmp_path / "broken.yaml"
    if content is not None:
        recipe.write_bytes(content)
    with pytest.raises(ConfigError, match=rule) as caught:
        load_config(str(recipe))
    assert str(recipe) in str(caught.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().train.epochs = 3


def test_the_dump_is_plain_yaml_in_the_order_of_the_parts() -> None:
    plain = yaml.safe_load(dump_yaml(load_config("smoke")))
    assert list(plain) == list(RunConfig.model_fields)
    assert plain["world"]["num_users"] == 200
