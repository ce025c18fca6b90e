"""Training examples and negatives as the Polars competitor of `benchmarks.prepare` makes them of a log."""

from math import log

import polars as pl

from benchmarks.polars_log import (
    ACTIONS,
    ADD_TO_CART,
    CHECKOUT,
    CLICK,
    DWELL_CAP,
    DWELL_FLOOR,
    IMPRESSION,
    LEVELS,
    REACH,
    REPIN,
    VISIT,
    WINDOW,
    Log,
    Settings,
    valid_dwell,
)


def attributed(conversions: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Conversions with `touch`, a row of the whole log, and `level`; `events` is the log they are attributed in."""
    touches = events.filter(pl.col("action") <= CLICK).join(conversions, on="own", how="semi")
    pairs = conversions.select("own", "pos", "pin", "time").join(
        touches.select("own", f="pos", f_pin="pin", f_time="time", kind="action"), on="own"
    )
    window = pl.when(pl.col("kind") == CLICK).then(WINDOW[CLICK]).otherwise(WINDOW[IMPRESSION])
    pairs = pairs.filter(pl.col("f") < pl.col("pos"), pl.col("time") - pl.col("f_time") <= window)
    same_pin = pl.col("f_pin") == pl.col("pin")
    levels = [str(level) for level in range(len(LEVELS))]
    last = {
        name: pl.col("f").filter((pl.col("kind") == kind) & (same_pin == same)).max()
        for name, (kind, same) in zip(levels, LEVELS, strict=True)
    }
    found = pairs.group_by("pos").agg(**last)
    given = [pl.when(pl.col(name).is_not_null()).then(pl.lit(int(name), pl.Int8)) for name in levels]
    level = pl.coalesce(*given, pl.lit(len(LEVELS), pl.Int8))
    return conversions.join(found, on="pos", how="left").with_columns(touch=pl.coalesce(*levels, "pos"), level=level)


def conversion_examples(the_log: Log, settings: Settings) -> pl.DataFrame:
    """One a person and pin: target, action, level, weight, touch."""
    seen = the_log.events.filter(pl.col("known") < the_log.train)
    weighed = [code for code in (ADD_TO_CART, CHECKOUT) if settings.weight(code) > 0]
    conversions = seen.filter(pl.col("action").is_in(weighed))
    ranked = attributed(conversions, seen).with_columns(weight=_weights(settings))
    ranked = ranked.sort("weight", "pos", descending=[True, False])
    chosen = ranked.unique(["user", "pin"], keep="first", maintain_order=True)
    return chosen.select("touch", "action", "level", "weight", "user", target="pin").with_columns(
        task=pl.lit(0, pl.Int8)
    )


def _weights(settings: Settings) -> pl.Expr:
    return pl.col("action").replace_strict(
        range(len(ACTIONS)), [settings.weight(code) for code in range(len(ACTIONS))], return_dtype=pl.Float64
    )


def engagement_examples(the_log: Log, settings: Settings) -> pl.DataFrame:
    """One a person and pin: the visit of the largest weight, after the correction to a mean weight of dwell of one."""
    click, repin = settings.weight(CLICK), settings.weight(REPIN)
    kept = [code for code in (CLICK, REPIN) if settings.weight(code) > 0]
    events = the_log.events.filter(pl.col("known") < the_log.train, pl.col("action").is_in(kept))
    alone = pl.col("request").is_null()
    gap = pl.col("time").diff().over("user", "pin").fill_null(0)
    chains = events.filter(alone).with_columns(chain=(gap > VISIT).cast(pl.UInt32))
    chains = chains.with_columns(pl.col("chain").cum_sum().over("user", "pin"))
    visits = (
        pl.concat([events.filter(~alone).with_columns(chain=pl.lit(0, pl.UInt32)), chains])
        .group_by("user", "pin", "request", "chain")
        .agg(
            touch=pl.col("pos").min(),
            dwell=valid_dwell().filter(pl.col("action") == CLICK).max().cast(pl.Float64),
            clicked=(pl.col("action") == CLICK).any(),
            repinned=(pl.col("action") == REPIN).any(),
        )
    )
    usual = the_log.median_dwell
    stay = pl.lit(1.0) if usual is None else _dwell_weight(pl.col("dwell").fill_null(usual))
    # The larger of the two; where they are equal it is a click.
    by_click = pl.when("clicked").then(click * pl.col("stay")).otherwise(-1.0)
    by_repin = pl.when("repinned").then(repin).otherwise(-1.0)
    chosen = (
        visits.with_columns(stay=stay)
        .with_columns(
            weight=pl.max_horizontal(by_click, by_repin),
            action=pl.when(by_click >= by_repin).then(CLICK).otherwise(REPIN).cast(pl.Int8),
        )
        .sort("weight", "touch", descending=[True, False])
        .unique(["user", "pin"], keep="first", maintain_order=True)
    )
    is_click = pl.col("action") == CLICK
    mean = pl.col("stay").filter(is_click).mean()
    final = pl.when(is_click).then(click * pl.min_horizontal(5.0, pl.col("stay") / mean)).otherwise("weight")
    return chosen.select(
        "touch", "action", "user", target="pin", weight=final, level=pl.lit(None, pl.Int8), task=pl.lit(1, pl.Int8)
    )


def _dwell_weight(seconds: pl.Expr) -> pl.Expr:
    share = (pl.min_horizontal(seconds, float(DWELL_CAP)) / DWELL_CAP).log1p() / log(2)
    return DWELL_FLOOR + (1 - DWELL_FLOOR) * share


def surviving(the_log: Log) -> pl.DataFrame:
    """The impressions that were served and not engaged with, on the pin or its advertiser's others, within reach."""
    seen = the_log.events.filter(pl.col("known") < the_log.train)
    shown = seen.filter(pl.col("action") == IMPRESSION, pl.col("time") + REACH <= the_log.train)
    shown = shown.select("pos", "user", "request", "pin", "own", "time")
    engaged = seen.filter(pl.col("action") >= CLICK).select("own", at="time", time="time")
    doubtful = shown.join(engaged.select("own").unique(), on="own", how="semi", maintain_order="left")
    nearest = doubtful.join_asof(  # log order: sorted by time within each `own`
        engaged, on="time", by="own", strategy="nearest", tolerance=REACH, check_sortedness=False
    )
    return shown.join(nearest.filter(pl.col("at").is_not_null()), on="pos", how="anti")


def negatives(examples: pl.DataFrame, survived: pl.DataFrame, count: int) -> pl.DataFrame:
    """Per query event (`touch`) the pins that its request also served; `examples` has its user, request and time."""
    served = survived.select("user", "request", "pin").drop_nulls("request").unique()
    asked = examples.select("touch", "user", "request", "time").drop_nulls("request").unique("touch")
    pairs = asked.join(served, on=["user", "request"]).join(
        examples.select("touch", pin="target"), on=["touch", "pin"], how="anti"
    )
    pairs = pairs.select("touch", "pin", order=_hash(pl.col("time"), pl.col("pin"))).sort("touch", "order")
    return pairs.group_by("touch", maintain_order=True).agg(negatives=pl.col("pin").head(count))


def _hash(time: pl.Expr, pin: pl.Expr) -> pl.Expr:
    def unsigned(value: int) -> pl.Expr:
        return pl.lit(value, pl.UInt64)

    half = 2**32
    x = time.cast(pl.UInt64) * unsigned(0x9E3779B97F4A7C15) + pin.cast(pl.UInt64) * unsigned(0xC2B2AE3D27D4EB4F)
    x = (x ^ (x // half)) * unsigned(0xD6E8FEB86659FD93)
    return x ^ (x // half)
