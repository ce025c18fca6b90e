"""The log as the Polars competitor of `benchmarks.prepare` works with it: coded, in log order, without duplicates."""

from dataclasses import dataclass, field

import polars as pl

SECOND, DAY = 1_000_000, 86_400_000_000
ACTIONS = ("impression", "click", "repin", "add_to_cart", "checkout")
IMPRESSION, CLICK, REPIN, ADD_TO_CART, CHECKOUT = range(5)
SURFACES = ("home_feed", "related_pins", "search")
LEVELS = ((CLICK, True), (IMPRESSION, True), (CLICK, False), (IMPRESSION, False))  # kind, on the same pin
WINDOW = {CLICK: 7 * DAY, IMPRESSION: 1 * DAY}
REACH = max(WINDOW.values())
DUPLICATE, VISIT = 10 * 60 * SECOND, 30 * 60 * SECOND
LONGEST_DWELL, DWELL_CAP, DWELL_FLOOR = 1800, 60, 0.1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the benchmark sets; all else is at its default and written as a constant above."""

    validation_days: int = 2
    test_days: int = 2
    weights: dict[str, float] = field(
        default_factory=lambda: {"checkout": 1.0, "add_to_cart": 1.0, "repin": 0.3, "click": 0.1}
    )
    evaluation_actions: tuple[str, ...] = ("checkout",)
    length: int = 50
    exclude_target: bool = False
    negatives: int = 4

    def weight(self, action: int) -> float:
        """The weight of an action's code."""
        return self.weights.get(ACTIONS[action], 0.0)


@dataclass(frozen=True, kw_only=True)
class Log:
    """Events in log order without duplicates, `pos` their row; the borders of the split; ids by code."""

    events: pl.DataFrame
    median_dwell: float | None
    train: int
    test: int
    end: int
    users: pl.DataFrame


def read_log(events: list[str], pins: str, settings: Settings) -> Log:
    """Read, code, sort and free of duplicates."""
    catalogue = pl.read_parquet(pins, columns=["pin_id", "advertiser_id"]).sort("pin_id")
    owner = _owners(catalogue["advertiser_id"])
    pin_ids, texts = pl.Enum(catalogue["pin_id"]), pl.Categorical()

    def code(name: str, dtype: pl.DataType, into: type[pl.DataType] = pl.Int32) -> pl.Expr:
        return pl.col(name).cast(dtype).to_physical().cast(into).fill_null(-1)

    known = pl.max_horizontal("timestamp", "reported_at").to_physical()
    raw = (
        pl.scan_parquet(events)
        .select(
            pl.col("user_id").cast(texts),
            time=pl.col("timestamp").to_physical(),
            known=known,
            pin=code("pin_id", pin_ids),
            action=code("action", pl.Enum(ACTIONS), pl.Int8),
            surface=code("surface", pl.Enum(SURFACES), pl.Int8),
            subject=code("subject_pin_id", pin_ids),
            query=pl.col("query").cast(texts),
            request=pl.col("request_id").cast(texts),
            dwell="dwell_seconds",
            event_id="event_id",
        )
        .with_columns(user=pl.col("user_id").to_physical())
        .collect()
    )
    last: int = raw["time"].max()  # type: ignore[assignment]
    end = (last // DAY + 1) * DAY
    test = end - settings.test_days * DAY
    train = test - settings.validation_days * DAY
    usual = _median_dwell(raw.lazy(), train)
    users = raw.select("user", "user_id").unique("user").with_columns(pl.col("user_id").cast(pl.String))
    found = _without_duplicates(_in_log_order(raw.drop("user_id"))).drop("event_id")
    place = owner.gather(found["pin"]).cast(pl.Int64)
    found = found.with_columns(
        own=pl.col("user").cast(pl.Int64) * 2**32 + place,
        request=pl.col("request").to_physical(),
    ).with_row_index("pos")
    return Log(events=found, median_dwell=usual, train=train, test=test, end=end, users=users)


def _owners(advertisers: pl.Series) -> pl.Series:
    """Per pin a code that it shares with the pins of its advertiser; of its own where it has none."""
    ranks = advertisers.rank("dense").cast(pl.Int64)
    return pl.select(pl.coalesce(ranks, pl.int_range(len(ranks)) + len(ranks) + 1))[:, 0]


def _median_dwell(raw: pl.LazyFrame, train: int) -> float | None:
    clicks = raw.filter(pl.col("action") == CLICK, pl.col("known") < train).select(valid_dwell().floor())
    found = clicks.drop_nulls().select(pl.col("dwell").quantile(0.5, "lower")).collect().item()
    return None if found is None else float(found)


def valid_dwell() -> pl.Expr:
    """`dwell` where it is one: finite and in [0, 1800] seconds; else null."""
    return pl.when(pl.col("dwell").is_finite() & pl.col("dwell").is_between(0, LONGEST_DWELL)).then("dwell")


def _in_log_order(raw: pl.DataFrame) -> pl.DataFrame:
    """Sorted by four numbers, and only what is equal in all of them by the rest, strings among it."""
    first = ["user", "time", "action", "pin"]
    rest = ["surface", "subject", "known", "query", "request", "dwell"]
    ordered = raw.sort(first)
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in first)
    tied = ordered.select(same.fill_null(False)).to_series()
    tied = tied | tied.shift(-1, fill_value=False)
    if not tied.any():
        return ordered
    rows = pl.select(row=pl.int_range(len(ordered)))["row"]
    keys = [pl.col("query").cast(pl.String), pl.col("request").cast(pl.String), pl.col("dwell").fill_null(-1)]
    among = ordered.with_columns(row=rows).filter(tied).with_columns(keys).sort(first + rest)["row"]
    return ordered[rows.scatter(rows.filter(tied), among)]


def _without_duplicates(events: pl.DataFrame) -> pl.DataFrame:
    events = events.with_row_index("pos")
    twice = events.filter(pl.col("event_id").is_duplicated() & pl.col("event_id").is_not_null())
    again = twice.sort("known", "pos").select("pos", extra=~pl.struct("user", "event_id").is_first_distinct())
    events = events.join(again.filter("extra"), on="pos", how="anti", maintain_order="left")
    keys = ["user", "pin", "action"]
    bought = events.filter(pl.col("action") >= ADD_TO_CART).select(*keys, "time", "known", "pos")
    bought = bought.filter(pl.struct(keys).is_duplicated())
    before = (pl.col("known_f") < pl.col("known")) | (
        (pl.col("known_f") == pl.col("known")) & (pl.col("pos_f") < pl.col("pos"))
    )
    near = (pl.col("time") - pl.col("time_f")).abs() <= DUPLICATE
    repeated = bought.join(bought, on=keys, suffix="_f").filter(before & near).select("pos").unique()
    return events.join(repeated, on="pos", how="anti", maintain_order="left").drop("pos")
