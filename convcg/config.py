"""`RunConfig`: the parts' settings, composed. A run is one YAML file of them plus `--set a.b=c`.

Unknown keys are refused with the valid ones named; the resolved config is stored in every checkpoint and bundle.
"""

import copy
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from convcg.data.examples import ExamplesConfig
from convcg.data.history import HistoryConfig
from convcg.data.split import SplitConfig
from convcg.data.world import WorldConfig
from convcg.errors import ConfigError
from convcg.evaluate import EvaluateConfig
from convcg.features import FeatureSpec, Kind
from convcg.graph.config import GraphConfig, GraphKind
from convcg.graph.vectors import START, check_start, without_vectors
from convcg.index.shard import IndexConfig
from convcg.model.loss import LossConfig
from convcg.model.two_tower import ModelConfig, PinStart
from convcg.recipes import RECIPES
from convcg.retriever.policy import RetrievalConfig
from convcg.serving import ServeConfig
from convcg.setting import Settings
from convcg.train import TrainConfig


class DataConfig(Settings):
    """Where the three tables are: Parquet files or directories, local or `s3://`, `gs://`.

    Without `events` the built-in world of `world` is used. Without `pins`, pins are known by their id alone.
    """

    events: str | None = None
    pins: str | None = None
    users: str | None = None
    #: The memory that one task of `prepare` may take; it decides how much of the log is worked on at once.
    task_memory_mb: int = Field(default=512, ge=16)
    #: The largest share of events with broken values that are set aside in `quarantine/` instead of being an error.
    max_broken_share: float = Field(default=0.0, ge=0, lt=1)


class PublishConfig(Settings):
    """Where bundles are published, and how many stay there for a rollback."""

    #: A directory or bucket prefix; None for `channel` in the workdir.
    channel: str | None = None
    keep: int = Field(default=3, ge=1)


class RunConfig(Settings):
    """Everything that decides a run's result."""

    data: DataConfig = DataConfig()
    world: WorldConfig = WorldConfig()
    split: SplitConfig = SplitConfig()
    history: HistoryConfig = HistoryConfig()
    examples: ExamplesConfig = ExamplesConfig()
    features: FeatureSpec = FeatureSpec()
    graph: GraphConfig = GraphConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    index: IndexConfig = IndexConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishConfig = PublishConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _index_holds_what_is_trained(self) -> "RunConfig":
        self.model.served_dim(self.index.dim)
        return self

    @model_validator(mode="after")
    def _graph_vectors_are_made(self) -> "RunConfig":
        starts = self.model.pin_start is PinStart.GRAPH
        readers = [f"the feature {each.name!r} of kind graph" for each in self.features.pin if each.kind is Kind.GRAPH]
        readers += [START] if starts else []
        if readers and self.graph.kind is GraphKind.NONE:
            raise without_vectors(by=readers[0])
        if starts:
            check_start(self.graph.dim, pin_dim=self.model.feature_width)
        return self


def load_config(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a recipe (a name, or the path of a YAML file) with `a.b=c` overrides applied.

    Raises:
        ConfigError: no such recipe, broken YAML, an unknown key or a value that its key cannot have; all at once.
    """
    return override(_read_yaml(recipe), overrides, source=recipe)


def override(plain: dict[str, Any], overrides: Sequence[str], *, source: str) -> RunConfig:
    """A config from plain data (a YAML file's, a bundle's) with `a.b=c` overrides applied.

    `source` names the data in errors.

    Raises:
        ConfigError: as `load_config`.
    """
    settings = copy.deepcopy(plain)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {text!r} is no override; write it as key.name=value.")
        try:
            _assign(settings, key.strip().split("."), yaml.safe_load(value), text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text!r}: the value is no YAML ({error}). Quote it.") from error
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "\n  ".join(_explain(error))) from error


def dump_yaml(config: RunConfig) -> str:
    """The resolved config as YAML that `load_config` reads back."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


def _read_yaml(recipe: str) -> dict[str, Any]:
    path = RECIPES.get(recipe, Path(recipe))
    if recipe not in RECIPES and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"recipe {recipe!r} is not known. Recipes: {', '.join(RECIPES)}; or give a .yaml file.")
    try:
        plain = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recipe {recipe}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the recipe {recipe} is no valid YAML: {error}") from error
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ConfigError(f"the recipe {recipe} holds {type(plain).__name__}; it must be a mapping of parts.")
    return plain


def _assign(plain: dict[str, Any], path: list[str], value: Any, text: str) -> None:
    for depth, name in enumerate(path[:-1], start=1):
        if plain.get(name) is None:  # absent, or a part that is named with nothing under it
            plain[name] = {}
        plain = plain[name]
        if not isinstance(plain, dict):
            raise ConfigError(f"--set {text!r}: {'.'.join(path[:depth])} is a value and has no keys of its own.")
    plain[path[-1]] = value


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where} is no known key. {_valid_keys(problem['loc'])}")
        else:
            shown = problem["input"]
            lines.append(f"{where} = {shown!r}: {problem['msg'].removeprefix('Value error, ')}.")
    return lines


def _valid_keys(location: tuple[int | str, ...]) -> str:
    part: Any = RunConfig
    for name in location[:-1]:
        if isinstance(name, int):  # an element of a list: its type is the list's argument
            part = get_args(part)[0] if get_args(part) else None
        else:
            field = part.model_fields.get(name) if _is_part(part) else None
            part = field.annotation if field else None
    if not _is_part(part):
        return ""
    names = list(part.model_fields)
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"{hint}Valid keys: {', '.join(names)}."


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
