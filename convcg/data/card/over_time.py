"""The plots of the data card over time: days, delays, durations. Each has a title that says what is seen."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from convcg.data.card import draw
from convcg.data.card.shares import endless
from convcg.page.html import Row, legend, no_plot, number, per_cent, plot, table
from convcg.types import ACTIONS, CONVERSIONS, Action

_MOST_DAYS = 750
_HOURS = {"1 h": 1.0, "1 d": 24.0}

ByDay = Sequence[Mapping[str, Any]]


def events_by_day(by_day: ByDay, times: Mapping[str, str]) -> str:
    """Events over time, one line an action."""
    period, days, counts = _over_time(by_day)
    total = {action: int(sum(of_action)) for action, of_action in counts.items()}
    if not any(total.values()):
        return no_plot("Events by day and action", "There are no events.")
    most = max(total, key=lambda action: total[action])
    seen = [action for action in ACTIONS if total[action]]
    names = _names(days, period)
    svg = draw.over_time(
        "events-by-day",
        names,
        {action.value: counts[action] for action in seen},
        x_name=f"{period} (UTC)",
        y_name=f"events a {period}",
        shaded=_shaded(times, days, period),
        kind="counts",
    )
    reading = (
        "Each line is one action. The axis is logarithmic: one step up is ten times as many. "
        "Shaded: the time kept for validation, then for the test."
    )
    rows: list[Row] = [[day, *(counts[action][at] for action in ACTIONS)] for at, day in enumerate(names)]
    return plot(
        f"{per_cent(total[most] / sum(total.values()))} of all events are of one kind: {_words(most)}",
        svg,
        reading,
        table([period, *map(_words, ACTIONS)], rows),
        legend([(action.value, _words(action)) for action in seen]),
    )


def conversion_rate_by_day(by_day: ByDay, times: Mapping[str, str]) -> str:
    """Conversions per click over time."""
    title = "Conversions per click, by day"
    period, days, counts = _over_time(by_day)
    clicks = counts[Action.CLICK]
    conversions = [sum(pair) for pair in zip(*(counts[action] for action in CONVERSIONS), strict=True)]
    if not sum(clicks):
        return no_plot(title, "There are no clicks, so there is nothing to divide by.")
    if not sum(conversions):
        return no_plot(title, "There are no conversions: nothing was put into a cart or bought.")
    rate = [done / clicked if clicked else float("nan") for done, clicked in zip(conversions, clicks, strict=True)]
    names = _names(days, period)
    svg = draw.over_time(
        "conversion-rate",
        names,
        {"plain": rate},
        x_name=f"{period} (UTC)",
        y_name="conversions per click",
        shaded=_shaded(times, days, period),
        kind="share",
    )
    reading = (
        f"What was put into a cart or bought in a {period}, divided by that {period}'s clicks. A fall at the end often "
        "means that conversions have not been reported yet. Shaded: validation, then test."
    )
    rows = [
        [day, done, clicked, per_cent(done / clicked) if clicked else "no clicks"]
        for day, done, clicked in zip(names, conversions, clicks, strict=True)
    ]
    in_a_hundred = 100 * sum(conversions) / sum(clicks)
    return plot(
        f"A hundred clicks bring {in_a_hundred:.3g} conversions",
        svg,
        reading,
        table([period, "conversions", "clicks", "per click"], rows),
    )


def report_delay(delay: Mapping[str, Any] | None) -> str:
    """How late conversions are reported."""
    return _delay(
        "report-delay",
        delay,
        title="How late conversions are reported",
        nothing="There are no conversions, or no times at which they were reported.",
        said="of conversions are known within an hour",
        x_name="hours from the conversion to its report",
        reading=(
            "The line shows which share of the conversions is known after so many hours. What is not known when "
            "training begins cannot be learned from."
        ),
    )


def conversion_delay(delay: Mapping[str, Any] | None) -> str:
    """How long after the touch people convert."""
    return _delay(
        "conversion-delay",
        delay,
        title="How long people take to convert",
        nothing="There are no conversions that a click or an impression led to.",
        said="of conversions follow their touch within an hour",
        x_name="hours from the touch to the conversion",
        reading=(
            "The touch is the click or impression that led to the conversion. An example asks its question at the time "
            "of the touch, so that the model learns to foresee what comes this much later."
        ),
    )


def _delay(
    name: str, delay: Mapping[str, Any] | None, *, title: str, nothing: str, said: str, x_name: str, reading: str
) -> str:
    if not delay or not sum(delay["counts"]):
        return no_plot(title, nothing)
    edges, counts = delay["edges_hours"], delay["counts"]
    share = [so_far / sum(counts) for so_far in accumulate(counts)]
    ends = [at for at, edge in enumerate(edges[1:]) if not endless(edge)]
    upto, reached = [float(edges[at + 1]) for at in ends], [share[at] for at in ends]
    exact = set(upto)
    at_mark = {mark: float(np.interp(hours, [edges[0], *upto], [0.0, *reached])) for mark, hours in _HOURS.items()}
    about = {mark: "" if hours in exact else "about " for mark, hours in _HOURS.items()}
    marks = {f"{mark}: {about[mark]}{per_cent(at_mark[mark])}": hours for mark, hours in _HOURS.items()}
    svg = draw.cumulative(name, upto, reached, x_name=x_name, y_name="share of conversions", marks=marks)
    first, day = ((about[mark] + per_cent(at_mark[mark])) for mark in _HOURS)
    later = f" {per_cent(1 - reached[-1])} come later than the axis reaches." if reached[-1] < 1 else ""
    rows = [
        [_between(left, right, " h"), count, per_cent(upto_here)]
        for (left, right), count, upto_here in zip(pairwise(edges), counts, share, strict=True)
    ]
    return plot(
        f"{first[0].upper()}{first[1:]} {said}, {day} within a day",
        svg,
        reading + later,
        table(["after", "conversions", "so far"], rows),
    )


def dwell(found: Mapping[str, Any]) -> str:
    """How long people stay after a click."""
    title = "How long people stay after a click"
    edges, counts, median = found["edges"], found["counts"], found["median"]
    left_out = f"{number(found['missing'])} clicks have no dwell time, {number(found['absurd'])} an impossible one."
    if not sum(counts):
        return no_plot(title, f"No click has a dwell time that can be believed. {left_out}")
    shown = [float(edge) for edge in edges if not endless(edge)]
    shown += [shown[-1] * 2] * (len(edges) - len(shown))
    begins = ""
    if shown[0] <= 0:
        shown[0], begins = shown[1] / 2, " The first bar begins at 0."
    marks = {} if median is None else {f"median: {number(median)} s": min(max(median, shown[0]), shown[-1])}
    svg = draw.histogram("dwell", shown, counts, x_name="dwell time, seconds", y_name="clicks", marks=marks)
    rows = [[_between(left, right, " s"), count] for (left, right), count in zip(pairwise(edges), counts, strict=True)]
    return plot(
        title if median is None else f"After half of the clicks, people stay at most {number(median)} seconds",
        svg,
        f"Each bar counts the clicks between two durations; the axis is logarithmic.{begins} {left_out}",
        table(["dwell time", "clicks"], rows),
    )


def _over_time(by_day: ByDay) -> tuple[str, list[date], dict[Action, list[int]]]:
    """The counts of each action for every day between the first and the last; of months where days are too many."""
    found = {date.fromisoformat(row["day"]): row for row in by_day}
    if not found:
        return "day", [], {action: [] for action in ACTIONS}
    first, last = min(found), max(found)
    days = [first + timedelta(days=after) for after in range((last - first).days + 1)]
    counts = {action: [int(found.get(day, {}).get(action.value, 0)) for day in days] for action in ACTIONS}
    if len(days) <= _MOST_DAYS:
        return "day", days, counts
    month = np.array([day.replace(day=1) for day in days], "datetime64[D]")
    months, of_day = np.unique(month, return_inverse=True)
    summed = {action: np.bincount(of_day, counts[action]).astype(int).tolist() for action in ACTIONS}
    return "month", months.astype(object).tolist(), summed


def _names(days: Sequence[date], period: str) -> list[str]:
    return [day.isoformat()[: 10 if period == "day" else 7] for day in days]


def _shaded(times: Mapping[str, str], days: Sequence[date], period: str) -> list[tuple[float, float]]:
    """Where validation and test lie among the days, at their midnights; nowhere where the days are months."""
    borders = [(date.fromisoformat(times[name][:10]) - days[0]).days - 0.5 for name in ("validation", "test", "end")]
    return [*pairwise(np.clip(borders, -0.5, len(days) - 0.5).tolist())] if period == "day" else []


def _between(left: float, right: float | None, unit: str) -> str:
    return f"{left:g} and more{unit}" if right is None or endless(right) else f"{left:g} to {right:g}{unit}"


def _words(action: Action) -> str:
    return action.value.replace("_", " ")
