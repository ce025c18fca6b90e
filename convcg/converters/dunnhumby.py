"""dunnhumby's "The Complete Journey" as the completejourney package has it: a directory of Parquet tables.

transactions or transactions_sample, products, demographics, campaigns, campaign_descriptions, coupons

*A purchase line is a checkout*, with its sales value as value (`transactions` is read where both tables are there).
Times are UTC, dates are midnight UTC. There are no clicks and no carts.

*A mailed coupon is an impression* of each product it is for: one for each household, campaign and product, at the
start of the campaign, and all that one household gets of one campaign shares a request. That is what campaigns of
type B and C send: every coupon of the campaign to every household in it. Of a type A campaign each household gets 16
coupons, chosen by what it bought; which ones is not in the data, so type A makes no impressions. (Redemptions would
name some of the 16, but only those that led to a purchase.) Neither redemptions nor the promotions of the stores are
read: they are not impressions.

*Pins* are all products, and those that only the other tables name. The manufacturer is the advertiser,
product_category the category; department, product_type, brand (national or private) and package_size are further
columns. The catalogue has no prices: `price` is what a unit cost on average in the purchases before 2017-10-01. Later
ones are left out because a price that comes from the test time would tell which products were sold in it. *Users* are
all households, with demographics where known.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convcg.converters.latest import Latest
from convcg.converters.output import Output
from convcg.converters.source import required_file, unreadable
from convcg.errors import DataError
from convcg.schema import TIMESTAMP
from convcg.storage import Location
from convcg.types import Action

PRICED_BEFORE = datetime(2017, 10, 1, tzinfo=UTC)
_TEXT = pa.string()
_TRANSACTIONS = {
    "household_id": _TEXT,
    "product_id": _TEXT,
    "quantity": pa.float64(),
    "sales_value": pa.float64(),
    "transaction_timestamp": TIMESTAMP,
}
_PRODUCT_FEATURES = ("department", "product_type", "brand", "package_size")
_PRODUCTS = dict.fromkeys(("product_id", "manufacturer_id", "product_category", *_PRODUCT_FEATURES), _TEXT)
_DEMOGRAPHICS = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)
_DESCRIPTIONS = {"campaign_id": _TEXT, "campaign_type": _TEXT, "start_date": pa.date32()}
_EVERY_COUPON = {"Type A": False, "Type B": True, "Type C": True}
_IMPRESSIONS_AT_ONCE = 1 << 20


def convert(source: Location, output: Output) -> None:
    """Convert the directory.

    Raises:
        DataError: a table is missing, or not of this format.
        StorageError: a table cannot be read or written.
    """
    purchases = _read(required_file(source, "transactions.parquet", "transactions_sample.parquet"), _TRANSACTIONS)
    products = _read(required_file(source, "products.parquet"), _PRODUCTS)
    members = _read(required_file(source, "campaigns.parquet"), dict.fromkeys(("campaign_id", "household_id"), _TEXT))
    coupons = _read(required_file(source, "coupons.parquet"), dict.fromkeys(("campaign_id", "product_id"), _TEXT))
    demographics = _read(
        required_file(source, "demographics.parquet"), dict.fromkeys(("household_id", *_DEMOGRAPHICS), _TEXT)
    )
    starts = _mailed_campaigns(required_file(source, "campaign_descriptions.parquet"))

    for impressions in _impressions(starts, members, coupons):
        output.events(impressions)
    output.events(_checkouts(purchases))

    pins = Latest(
        dict.fromkeys(("pin_id", "advertiser_id", "category", *_PRODUCT_FEATURES), _TEXT) | {"price": pa.float64()}
    )
    pins.add(
        {"pin_id": products["product_id"], "advertiser_id": products["manufacturer_id"]}
        | {"category": products["product_category"]}
        | {name: products[name] for name in _PRODUCT_FEATURES}
    )
    pins.add({"pin_id": coupons["product_id"]})
    pins.add({"pin_id": purchases["product_id"]})
    pins.add(_prices(purchases))
    output.pins(pins.table())

    users = Latest(dict.fromkeys(("user_id", *_DEMOGRAPHICS), _TEXT))
    users.add({"user_id": purchases["household_id"]})
    users.add({"user_id": members["household_id"]})
    users.add({"user_id": demographics["household_id"]} | {name: demographics[name] for name in _DEMOGRAPHICS})
    output.users(users.table())


def _read(file: Location, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """The columns in the given types. Ids must not be null.

    Raises:
        DataError: a column is missing, cannot be read as its type, or is an id and has nulls.
        StorageError: the file is no Parquet file.
    """
    try:
        with file.filesystem.open_input_file(file.path) as stream:
            table = pq.ParquetFile(stream)
            found = table.schema_arrow.names
            missing = [name for name in columns if name not in found]
            if missing:
                raise DataError(
                    f"{file.uri}: expected the columns {', '.join(columns)}; "
                    f"found {', '.join(found)}, so {', '.join(missing)} is missing."
                )
            rows = table.read(list(columns))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(file, error) from error
    return pa.table({name: _column(file, rows[name], name, type) for name, type in columns.items()})


def _column(file: Location, values: pa.ChunkedArray, name: str, type: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    try:
        cast = values.cast(type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{file.uri}, column {name}: expected {type}; found {values.type} ({error}).") from error
    is_required = name.endswith(("household_id", "product_id", "campaign_id", "transaction_timestamp", "start_date"))
    if is_required and cast.null_count:
        row = pc.index(cast.is_null(), True).as_py() + 1
        raise DataError(f"{file.uri}, row {row}, column {name}: expected a value; found none.")
    return cast


def _mailed_campaigns(file: Location) -> dict[str, datetime]:
    """The campaigns that send every coupon to every household in them, and when they start."""
    rows = _read(file, _DESCRIPTIONS)
    unknown = [kind for kind in pc.unique(rows["campaign_type"]).to_pylist() if kind not in _EVERY_COUPON]
    if unknown:
        raise DataError(
            f"{file.uri}, column campaign_type: expected one of {', '.join(_EVERY_COUPON)}; found {unknown[0]!r}."
        )
    starts = rows["start_date"].cast(TIMESTAMP)
    chosen = zip(rows["campaign_id"].to_pylist(), rows["campaign_type"].to_pylist(), starts.to_pylist(), strict=True)
    return {campaign: start for campaign, kind, start in chosen if _EVERY_COUPON[kind]}


def _impressions(starts: Mapping[str, datetime], members: pa.Table, coupons: pa.Table) -> Iterator[pa.Table]:
    """Every household of a campaign with every product of its coupons, some households at a time."""
    for campaign, start in starts.items():
        households = pc.unique(_of(members, campaign)["household_id"])
        products = pc.unique(_of(coupons, campaign)["product_id"])
        step = max(1, _IMPRESSIONS_AT_ONCE // max(1, len(products)))
        for first in range(0, len(households), step):
            some = households.slice(first, step)
            household = some.take(pa.array(np.repeat(np.arange(len(some)), len(products))))
            yield pa.table(
                {
                    "timestamp": pa.repeat(pa.scalar(start, TIMESTAMP), len(household)),
                    "user_id": household,
                    "pin_id": products.take(pa.array(np.tile(np.arange(len(products)), len(some)))),
                    "action": pa.repeat(Action.IMPRESSION.value, len(household)),
                    "request_id": pc.binary_join_element_wise("campaign", campaign, household, "-"),
                    "value": pa.nulls(len(household), pa.float64()),
                }
            )


def _of(rows: pa.Table, campaign: str) -> pa.Table:
    return rows.filter(pc.equal(rows["campaign_id"], campaign))


def _checkouts(purchases: pa.Table) -> pa.Table:
    return pa.table(
        {
            "timestamp": purchases["transaction_timestamp"],
            "user_id": purchases["household_id"],
            "pin_id": purchases["product_id"],
            "action": pa.repeat(Action.CHECKOUT.value, len(purchases)),
            "request_id": pa.nulls(len(purchases), pa.string()),
            "value": purchases["sales_value"],
        }
    )


def _prices(purchases: pa.Table) -> dict[str, pa.ChunkedArray]:
    """What a unit of each product cost on average before `PRICED_BEFORE`, where quantity and value are known."""
    early = pc.less(purchases["transaction_timestamp"], pa.scalar(PRICED_BEFORE, TIMESTAMP))
    paid = pc.and_(pc.greater(purchases["quantity"], 0), pc.greater(purchases["sales_value"], 0))
    sums = purchases.filter(pc.and_(early, paid)).group_by("product_id", use_threads=False)
    total = sums.aggregate([("sales_value", "sum"), ("quantity", "sum")])
    return {"pin_id": total["product_id"], "price": pc.divide(total["sales_value_sum"], total["quantity_sum"])}
