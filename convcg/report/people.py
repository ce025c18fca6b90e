"""The people of the report: what they had done, what the model would have shown them, and what they bought."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from convcg.page.html import box, paragraph, table
from convcg.report.words import plain

_SHOWN_ACTIONS = 8
_SHOWN_ATTRIBUTES = 6
_MICROSECONDS = 1_000_000
_NO_MARK, _MARK = "", "◆ bought"


def people(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """A card for each person: pins in the columns that they have, the bought pin marked."""
    return [_person(number, sample) for number, sample in enumerate(samples, start=1)]


def _person(number: int, sample: Mapping[str, Any]) -> str:
    target, history, candidates = sample["target"], sample["history"], sample["candidates"]
    names = _attributes([target, *(each["pin"] for each in (*history, *candidates))])
    asked = datetime.fromtimestamp(sample["time"] / _MICROSECONDS, UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = f"Person {number}: {plain(sample['surface'])}, {asked}"
    parts = [f"<h3>{escape(title)}</h3>", paragraph(_context(sample), "faint")]
    done = [[plain(each["action"]), _days(each["days_ago"]), *_values(each["pin"], names)] for each in history]
    if done:
        rest = len(done) - _SHOWN_ACTIONS
        more = f", and {rest} actions before" if rest > 0 else ""
        header = ["did", "ago", *map(plain, names)]
        parts += [paragraph(f"What this person had done{more}:"), table(header, done[:_SHOWN_ACTIONS])]
    else:
        parts.append(paragraph("This person had done nothing before."))
    is_target = [each["pin"].get("pin_id") == target.get("pin_id") for each in candidates]
    rows = [
        [str(place), f"{each['score']:.3f}", *_values(each["pin"], names), _MARK if bought else _NO_MARK]
        for place, (each, bought) in enumerate(zip(candidates, is_target, strict=True), start=1)
    ]
    rank = sample["rank"]
    place = "was not among the candidates" if rank is None else f"stood at place {rank:,} of the model's list"
    parts += [
        paragraph("What the model brings, best first:"),
        table(["place", "score", *map(plain, names), ""], rows, marked=[at for at, hit in enumerate(is_target) if hit]),
        paragraph(f"What was bought then; it {place}:"),
        table(list(map(plain, names)), [_values(target, names)], marked=[0]),
    ]
    return box(*parts)


def _context(sample: Mapping[str, Any]) -> str:
    parts = []
    if sample["query"]:
        parts.append(f"searched for “{sample['query']}”")
    if sample["subject"]:
        shown = ", ".join(f"{plain(name)} {_value(value)}" for name, value in list(sample["subject"].items())[:4])
        parts.append(f"looked at a pin ({shown})")
    said = " and ".join(parts) or "opened the page, and asked for nothing"
    return f"{sample['user_id']} {said}."


def _attributes(pins: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns worth showing: those that tell pins apart or say something, the id first."""
    pins = list(pins)
    names = [name for name in pins[0] if any(pin.get(name) is not None for pin in pins)]
    return names[:_SHOWN_ATTRIBUTES]


def _values(pin: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [_value(pin.get(name)) for name in names]


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _days(days: float) -> str:
    if days < 1 / 24:
        return f"{days * 1440:.0f} minutes"
    return f"{days * 24:.0f} hours" if days < 2 else f"{days:.0f} days"
