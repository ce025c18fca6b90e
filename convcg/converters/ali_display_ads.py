"""Alibaba's display advertising data ("Ad Display/Click Data on Taobao.com"): a directory of CSV files, plain or .gz.

raw_sample.csv      `user,time_stamp,adgroup_id,pid,nonclk,clk`, seconds: one row an ad that was shown
ad_feature.csv      `adgroup_id,cate_id,campaign_id,customer,brand,price`
user_profile.csv    `userid,cms_segid,cms_group_id,final_gender_code,age_level,...`; may be absent
behavior_log.csv    `user,time_stamp,btag,cate,brand`, seconds; may be absent (it has 723 million rows)

An ad is a pin, its customer the advertiser. Every row of raw_sample is an impression; with clk = 1 it is a click as
well, at the same time. Ads that a person was shown in the same second at the same place (pid) share a request.

**What people did in the shop is logged by category and brand, never by ad or product.** So it does not become
purchases of ads: which ad, if any, led to them is not in the data. It becomes events on pins of their own, one a pair
of category and brand ("category 4520 brand 365"): pv click, fav repin, cart add_to_cart, buy checkout. These pins
have no advertiser and are never in stock, so they inform histories and features but are never served. What follows:
the log holds no conversion on an ad, and recall of checkouts on it is recall of categories and brands. Leave
behavior_log.csv away for the ads alone.
"""

import pyarrow as pa
import pyarrow.compute as pc

from convcg.converters.latest import Latest
from convcg.converters.output import Output
from convcg.converters.source import optional_file, required_file
from convcg.converters.text_rows import TextRows, read_csv
from convcg.storage import Location
from convcg.types import Action

_NULLS = ("", "NULL")
_BEHAVIOURS = {
    "pv": Action.CLICK.value,
    "fav": Action.REPIN.value,
    "cart": Action.ADD_TO_CART.value,
    "buy": Action.CHECKOUT.value,
}
_CLICKED = {"0": Action.IMPRESSION.value, "1": Action.CLICK.value}
_PROFILE = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)


def convert(source: Location, output: Output) -> None:
    """Convert the directory.

    Raises:
        DataError: a file is missing, or not of this format.
        StorageError: a file cannot be read, or a table not written.
    """
    shown, ads = required_file(source, "raw_sample.csv"), required_file(source, "ad_feature.csv")
    profiles, behaviours = optional_file(source, "user_profile.csv"), optional_file(source, "behavior_log.csv")
    pins = Latest(
        {
            "pin_id": pa.string(),
            "advertiser_id": pa.string(),
            "category": pa.string(),
            "brand": pa.string(),
            "campaign_id": pa.string(),
            "price": pa.float64(),
            "in_stock": pa.bool_(),
        }
    )
    for rows in read_csv(ads, ("adgroup_id", "cate_id", "campaign_id", "customer", "brand", "price"), nulls=_NULLS):
        pins.add(_ads(rows))
    for rows in read_csv(shown, ("user", "time_stamp", "adgroup_id", "pid", "clk"), nulls=_NULLS):
        pins.add({"pin_id": rows.ids("adgroup_id")})
        output.events(_impressions_and_clicks(rows))
    if behaviours:
        for rows in read_csv(behaviours, ("user", "time_stamp", "btag", "cate", "brand"), nulls=_NULLS):
            pin_id = pc.binary_join_element_wise(
                "category", rows.ids("cate"), "brand", pc.fill_null(rows.texts("brand"), "none"), " "
            )
            never = pa.repeat(False, len(rows))
            pins.add({"pin_id": pin_id, "category": rows.ids("cate"), "brand": rows.texts("brand"), "in_stock": never})
            output.events(_behaviours(rows, pin_id))
    output.pins(pins.table())
    if profiles:
        users = Latest({"user_id": pa.string()} | dict.fromkeys(_PROFILE, pa.string()))
        for rows in read_csv(profiles, ("userid", *_PROFILE), nulls=_NULLS):
            users.add({"user_id": rows.ids("userid")} | {name: rows.texts(name) for name in _PROFILE})
        output.users(users.table())


def _ads(rows: TextRows) -> dict[str, pa.Array]:
    return {
        "pin_id": rows.ids("adgroup_id"),
        "advertiser_id": rows.texts("customer"),
        "category": rows.texts("cate_id"),
        "brand": rows.texts("brand"),
        "campaign_id": rows.texts("campaign_id"),
        "price": rows.prices("price"),
    }


def _impressions_and_clicks(rows: TextRows) -> pa.Table:
    last = rows.chosen("clk", _CLICKED)
    user, time_stamp = rows.ids("user"), rows.ids("time_stamp")
    impressions = pa.table(
        {
            "timestamp": rows.epochs("time_stamp", unit="s"),
            "user_id": user,
            "pin_id": rows.ids("adgroup_id"),
            "action": pa.repeat(Action.IMPRESSION.value, len(rows)),
            "request_id": pc.binary_join_element_wise(user, time_stamp, rows.ids("pid"), "-"),
        }
    )
    clicked = impressions.set_column(3, "action", last).filter(pc.equal(last, Action.CLICK.value))
    return pa.concat_tables([impressions, clicked])


def _behaviours(rows: TextRows, pin_id: pa.Array) -> pa.Table:
    return pa.table(
        {
            "timestamp": rows.epochs("time_stamp", unit="s"),
            "user_id": rows.ids("user"),
            "pin_id": pin_id,
            "action": rows.chosen("btag", _BEHAVIOURS),
            "request_id": pa.nulls(len(rows), pa.string()),
        }
    )
