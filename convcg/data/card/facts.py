"""What the data card shows, from the counts that `prepare` has added up."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from convcg.data.attribution import TOUCHES
from convcg.data.event_codes import advertiser_numbers
from convcg.data.prepared import PINS, Summary, stored_bytes
from convcg.data.split import MICROSECONDS
from convcg.data.survey import DELAY_HOURS, Fact, Survey
from convcg.data.tables import RowTable
from convcg.storage import Location
from convcg.types import ACTIONS, SURFACES, Task

_ADVERTISER_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 1_000_000_000)
_DWELL_SECONDS = (0, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 900, 1801)

#: Rule of the tally -> what it says, what it counts, and out of how many: a name of the totals below.
_RULES = {
    "quarantined": ("broken, set aside in quarantine/", "events", "read"),
    "unseen": ("not known yet at split.as_of", "events", "read"),
    "dropped.same_event_id": ("reported again under the same event_id", "events", "events"),
    "dropped.same_purchase": ("reported again within minutes", "conversions", "reported"),
    "dropped.unattributed": ("no touch led to it (attribution.keep_unattributed: false)", "conversions", "conversions"),
    "dropped.conversions_of_the_same_pin": ("a stronger or earlier one of the pin", "conversions", "conversions"),
    "dropped.events_of_the_same_visit": ("another event of the same visit", "engagements", "engagements"),
    "dropped.engagements_of_the_same_pin": ("a stronger or earlier visit of the pin", "engagements", "engagements"),
    "dropped.over_user_cap": ("over examples.per_user", "examples", "examples"),
    "dropped.over_cap": ("over examples.per_pin or per_advertiser", "examples", "examples"),
    "dropped.too_young": ("impression younger than the attribution window", "impressions", "impressions"),
    "dropped.engaged_around": ("impression of what the person engaged with or bought", "impressions", "impressions"),
}  # fmt: skip


def card_facts(directory: Location, summary: Summary, survey: Survey, tally: Mapping[str, float]) -> dict[str, Any]:
    """The input of `convcg.data.card.page.card_page`, plain types alone."""
    return {
        "title": "Data card",
        "created": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "rows": {
            "events": summary.num_events,
            "pins": summary.num_pins,
            "users": summary.num_users,
            "quarantined": survey.num_broken,
        },
        "time": {name: _iso(time) for name, time in _times(summary, survey).items()},
        "actions": {str(ACTIONS[code]): count for code, count in survey.by_key(Fact.ACTION).items()},
        "surfaces": {
            (str(SURFACES[code]) if code >= 0 else "unknown"): count
            for code, count in survey.by_key(Fact.SURFACE).items()
        },
        "examples": {
            **{task.value: summary.num_train[task.value] for task in Task},
            "requests": int(tally["rows.requests"]),
            "validation": summary.num_validation,
            "test": summary.num_test,
            "served_not_engaged": int(tally["served"]),
        },
        "attribution": {name: int(tally[f"level.{name}"]) for name in (*map(str, TOUCHES), "none")},
        "rules": _rules(summary, survey, tally),
        "by_day": survey.by_day(),
        "dwell": _dwell(summary, survey),
        "report_delay": _delays(survey.by_key(Fact.DELAY)),
        "conversion_delay": _delays({number: int(tally[f"delay.{number}"]) for number in range(len(DELAY_HOURS) - 1)}),
        "advertiser_sizes": _advertisers(directory),
        "bytes": stored_bytes(directory),
        "notes": list(summary.notes),
    }


def _times(summary: Summary, survey: Survey) -> dict[str, int]:
    times = summary.times
    first = survey.first_day * 86_400 * MICROSECONDS
    return {"first": first, "train": times.train, "validation": times.validation, "test": times.test, "end": times.end}


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / MICROSECONDS, tz=UTC).isoformat()


def _rules(summary: Summary, survey: Survey, tally: Mapping[str, float]) -> list[dict[str, Any]]:
    left = sum(summary.num_train.values())
    counts = {
        **tally,
        "quarantined": survey.num_broken,
        "unseen": survey.num_unseen,
        "dropped.over_cap": tally["rows.conversion"] + tally["rows.engagement"] - left,
    }
    totals = {
        "read": survey.num_events + survey.num_unseen + survey.num_broken,
        "events": survey.num_events,
        "reported": tally["reported_conversions"],
        "conversions": tally["conversions"],
        "engagements": tally["engagements"],
        "examples": tally["rows.conversion"] + tally["rows.engagement"] + tally["dropped.over_user_cap"],
        "impressions": tally["impressions"],
    }
    return [
        {"rule": text, "what": what, "dropped": int(counts[rule]), "of": int(totals[total])}
        for rule, (text, what, total) in _RULES.items()
    ]


def _dwell(summary: Summary, survey: Survey) -> dict[str, Any]:
    seconds = survey.by_key(Fact.DWELL)
    believed = {key: count for key, count in seconds.items() if key >= 0}
    counts = np.histogram(list(believed), bins=_DWELL_SECONDS, weights=list(believed.values()))[0]
    return {
        "edges": list(_DWELL_SECONDS),
        "counts": counts.astype(int).tolist(),
        "missing": seconds.get(-1, 0),
        "absurd": seconds.get(-2, 0),
        "median": survey.median_dwell(summary.times.train),
    }


def _delays(counts: Mapping[int, int]) -> dict[str, Any]:
    return {"edges_hours": list(DELAY_HOURS), "counts": [counts.get(bin_, 0) for bin_ in range(len(DELAY_HOURS) - 1)]}


def _advertisers(directory: Location) -> dict[str, Any] | None:
    advertiser_N = advertiser_numbers(RowTable.open(directory / PINS))
    if (advertiser_N < 0).all():
        return None
    sizes = np.bincount(advertiser_N[advertiser_N >= 0])
    counts = np.histogram(sizes, bins=_ADVERTISER_SIZES)[0]
    return {"edges": list(_ADVERTISER_SIZES), "counts": counts.tolist()}
