"""The split by global time: what training may know, and which queries validate and test it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

from pydantic import Field

from convcg.setting import Settings

MICROSECONDS = 1_000_000
DAY = 86_400 * MICROSECONDS


class SplitConfig(Settings):
    """The split, in whole UTC days counted back from the end of the log."""

    validation_days: int = Field(default=1, ge=1)
    test_days: int = Field(default=1, ge=1)
    #: Days between training and validation that neither of them uses: conversions of their clicks are still on the way.
    gap_days: int = Field(default=0, ge=0)
    #: Prepare as of this midnight (UTC): nothing that became known at or after it is seen. None for the whole log.
    as_of: date | None = None

    @property
    def seen_until(self) -> int | None:
        """`as_of` in microseconds since the epoch; None for the whole log."""
        if self.as_of is None:
            return None
        return int(datetime(self.as_of.year, self.as_of.month, self.as_of.day, tzinfo=UTC).timestamp()) * MICROSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTimes:
    """The borders of the split, in microseconds since the epoch. Training knows what became known before `train`;
    the queries of [validation, test) validate, those of [test, end) test.
    """

    train: int
    validation: int
    test: int
    end: int

    @classmethod
    def of(cls, last_event: int, config: SplitConfig) -> "SplitTimes":
        """Count whole days back from the midnight after `last_event` (microseconds since the epoch)."""
        end = (last_event // DAY + 1) * DAY
        test = end - config.test_days * DAY
        validation = test - config.validation_days * DAY
        return cls(train=validation - config.gap_days * DAY, validation=validation, test=test, end=end)
