"""A ladder: a recipe, the changes that lead from it to a better one, and the runs that say what each is worth.

A change is measured in both directions, since what it adds may depend on the others: alone on top of the start (`add`),
and missing at the end (`out`; not what a later change has replaced); `cumulative` runs take one change more each. A
file of `variants` instead of steps compares each of them with the start. Runs that come to the same settings are one.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, model_validator

from convcg.config import RunConfig, load_config
from convcg.errors import ConfigError
from convcg.recipes import LADDERS
from convcg.setting import Settings


class Direction(StrEnum):
    """How changes are measured."""

    CUMULATIVE = "cumulative"
    ADD = "add"
    OUT = "out"
    VARIANTS = "variants"


class Step(Settings):
    """One change: what it is called, and the settings (`a.b: value`) behind it."""

    name: str
    set: dict[str, Any]


class Ladder(Settings):
    """A ladder's file. `milestones`: recipe -> name of the step after which the settings are those of the recipe."""

    start: str
    steps: tuple[Step, ...] = ()
    milestones: dict[str, str] = {}
    variants: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _names_fit(self) -> "Ladder":
        names = [step.name for step in self.steps]
        if bool(names) == bool(self.variants):
            raise ValueError("it must have either steps or variants")
        if twice := sorted({name for name in (*names, *self.variants) if (names + [*self.variants]).count(name) > 1}):
            raise ValueError(f"two steps are named {', '.join(twice)}")
        if unknown := sorted(set(self.milestones.values()) - set(names)):
            raise ValueError(f"milestones name {', '.join(unknown)}, which is no step. Steps: {', '.join(names)}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting that is run: `name` is its directory's, `overrides` are on top of the ladder's start."""

    name: str
    overrides: tuple[str, ...]
    config: RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One row of a table: what it says, the name of its setting, and the row that it is compared with."""

    label: str
    setting: str
    against: "Rung | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The distinct settings to run, the start first, and a table for each direction."""

    settings: tuple[Setting, ...]
    tables: dict[Direction, tuple[Rung, ...]]


def read_ladder(name: str) -> Ladder:
    """The ladder of a name, or of the path of a YAML file.

    Raises:
        ConfigError: there is none, or it is no ladder.
    """
    path = LADDERS.get(name, Path(name))
    if name not in LADDERS and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"ladder {name!r} is not known. Ladders: {', '.join(LADDERS)}; or give a .yaml file.")
    try:
        return Ladder.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the ladder {name}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the ladder {name} is no valid YAML: {error}") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors()]
        raise ConfigError(
            f"the ladder {name} cannot be used: {'; '.join(problems)}. It needs start: RECIPE, and steps (a list of "
            "name and set) or variants (name: settings)."
        ) from error


def plan(ladder: Ladder, *, overrides: Sequence[str] = (), directions: Sequence[Direction] = tuple(Direction)) -> Plan:
    """What is to be run, and how the runs are compared. `overrides` hold in all runs, over what steps set.

    Raises:
        ConfigError: a setting is not valid, a step changes nothing, or a milestone is not what its recipe is.
    """
    planned = _Planned(ladder.start, tuple(overrides))
    start = Rung(label=ladder.start, setting=planned.setting(_named(ladder.start), []), against=None)
    tables: dict[Direction, tuple[Rung, ...]] = {}
    if ladder.variants:
        rungs = [planned.rung(name, _named(name), [chosen], start) for name, chosen in ladder.variants.items()]
        return planned.plan({Direction.VARIANTS: (start, *rungs)})
    sets = [step.set for step in ladder.steps]
    _check_milestones(ladder, overrides)
    if Direction.CUMULATIVE in directions:
        rungs = [start]
        for number, step in enumerate(ladder.steps, start=1):
            rungs.append(planned.rung(f"+ {step.name}", f"upto-{_named(step.name)}", sets[:number], rungs[-1]))
        tables[Direction.CUMULATIVE] = tuple(rungs)
    if Direction.ADD in directions:
        rungs = [
            planned.rung(f"{ladder.start} + {step.name}", f"add-{_named(step.name)}", [step.set], start)
            for step in ladder.steps
        ]
        tables[Direction.ADD] = (start, *rungs)
    if Direction.OUT in directions:
        last = next((name for name, step in ladder.milestones.items() if step == ladder.steps[-1].name), "all steps")
        end = Rung(label=last, setting=planned.setting(f"upto-{_named(ladder.steps[-1].name)}", sets), against=None)
        rungs = [
            planned.rung(f"{last} - {step.name}", f"out-{_named(step.name)}", sets[:at] + sets[at + 1 :], end)
            for at, step in enumerate(ladder.steps)
            if not _is_replaced(step, ladder.steps[at + 1 :])
        ]
        tables[Direction.OUT] = (end, *rungs)
    return planned.plan(tables)


class _Planned:
    """Settings by what they come to."""

    def __init__(self, start: str, overrides: tuple[str, ...]) -> None:
        self._start, self._overrides = start, overrides
        self._found: dict[str, Setting] = {}

    def setting(self, name: str, sets: Sequence[dict[str, Any]]) -> str:
        """The name of the setting with these changes, the earlier one's where it is the same."""
        overrides = (*_overrides(sets), *self._overrides)
        try:
            config = load_config(self._start, overrides)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        return self._found.setdefault(
            config.model_dump_json(), Setting(name=name, overrides=overrides, config=config)
        ).name

    def rung(self, label: str, name: str, sets: Sequence[dict[str, Any]], against: Rung) -> Rung:
        setting = self.setting(name, sets)
        if setting == against.setting:
            raise ConfigError(f"{label!r} changes nothing of {against.label!r}. Remove it, or a --set that undoes it.")
        return Rung(label=label, setting=setting, against=against)

    def plan(self, tables: dict[Direction, tuple[Rung, ...]]) -> Plan:
        return Plan(settings=tuple(self._found.values()), tables=tables)


def _is_replaced(step: Step, later: Sequence[Step]) -> bool:
    """Whether later steps set again all that a step sets: at the end nothing of it is there to be left out."""
    return step.set.keys() <= {key for each in later for key in each.set}


def _check_milestones(ladder: Ladder, overrides: Sequence[str]) -> None:
    names = [step.name for step in ladder.steps]
    for recipe, last in ladder.milestones.items():
        sets = [step.set for step in ladder.steps[: names.index(last) + 1]]
        reached = load_config(ladder.start, [*_overrides(sets), *overrides]).model_dump(mode="json")
        wanted = load_config(recipe, overrides).model_dump(mode="json")
        if differing := _differing(reached, wanted):
            raise ConfigError(
                f"after {last!r} the ladder's settings are not those of the recipe {recipe}: {'; '.join(differing)}. "
                "Change the steps or the recipe."
            )


def _differing(mine: Any, other: Any, path: str = "") -> list[str]:
    if isinstance(mine, dict) and isinstance(other, dict):
        return [
            line
            for key in sorted(mine.keys() | other.keys())
            for line in _differing(mine.get(key), other.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if mine == other else [f"{path} is {mine!r}, not {other!r}"]


def _overrides(sets: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for each in sets for key, value in each.items()]


def _named(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
