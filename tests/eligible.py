"""Which pins a request may see, one pin at a time: what eligibility's bitmaps must agree with."""

from typing import Any

from convcg.types import Filter, Range, Request


def is_eligible(pin: dict[str, Any], request: Request, country: str | None) -> bool:
    """Whether a row of the pin table is in stock, shown on the surface and in the country, and passes the filters."""
    return bool(
        pin["in_stock"]
        and (pin["surfaces"] is None or request.surface.value in pin["surfaces"])
        and (country is None or pin["countries"] is None or country in pin["countries"])
        and all(_matches(pin[name], wanted) for name, wanted in request.filters.items())
    )


def _matches(value: Any, wanted: Filter) -> bool:
    if isinstance(wanted, Range):
        return (wanted.min is None or value >= wanted.min) and (wanted.max is None or value <= wanted.max)
    return value in wanted if isinstance(wanted, tuple) else bool(value == wanted)
