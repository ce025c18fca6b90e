"""dunnhumby's tables: small ones in the exact types against tables worked out by hand."""

from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from converted import converted

from convcg.errors import DataError, StorageError


def text(*values: str | None) -> pa.Array:
    return pa.array(values, pa.large_string())


def codes(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()


def tables() -> dict[str, pa.Table]:
    return {
        "transactions_sample": pa.table(
            {
                "household_id": text("1", "1", "2", "2"),
                "store_id": text("9", "9", "9", "9"),
                "basket_id": text("b1", "b1", "b2", "b3"),
                "product_id": text("10", "11", "10", "77"),
                "quantity": pa.array([2.0, 0.0, 1.0, 1.0]),
                "sales_value": pa.array([3.0, 1.0, 2.1, 5.0]),
                "transaction_timestamp": pa.array(
                    [datetime(2017, 1, 28, 19, 6, 53)] * 2 + [datetime(2017, 9, 30, 23, 59, 59), datetime(2017, 10, 1)],
                    pa.timestamp("us"),
                ),
            }
        ),
        "products": pa.table(
            {
                "product_id": text("10", "11"),
                "manufacturer_id": text("2", "69"),
                "department": text("GROCERY", "PASTRY"),
                "brand": codes("National", "Private"),
                "product_category": text("FRZN ICE", None),
                "product_type": text("ICE - CRUSHED/CUBED", None),
                "package_size": text("22 LB", None),
            }
        ),
        "demographics": pa.table(
            {
                "household_id": text("2"),
                "age": codes("65+"),
                "income": codes("35-49K"),
                "home_ownership": codes(None),
                "marital_status": codes("Married"),
                "household_size": codes("2"),
                "household_comp": codes("2 Adults No Kids"),
                "kids_count": codes("0"),
            }
        ),
        "campaigns": pa.table({"campaign_id": text("1", "1", "8", "24"), "household_id": text("1", "3", "1", "2")}),
        "campaign_descriptions": pa.table(
            {
                "campaign_id": text("1", "8", "24"),
                "campaign_type": codes("Type B", "Type A", "Type C"),
                "start_date": pa.array([date(2017, 3, 3), date(2017, 5, 8), date(2016, 11, 14)]),
                "end_date": pa.array([date(2017, 4, 9), date(2017, 6, 25), date(2017, 1, 16)]),
            }
        ),
        # Product 10 is on two coupons of campaign 1; 88 is in no other table.
        "coupons": pa.table(
            {
                "coupon_upc": text("c1", "c2", "c2", "c3", "c4"),
                "product_id": text("10", "10", "11", "88", "11"),
                "campaign_id": text("1", "1", "1", "8", "24"),
            }
        ),
    }


def written(directory: Path, **changed: pa.Table | None) -> Path:
    directory.mkdir()
    for name, table in (tables() | changed).items():
        if table is not None:
            pq.write_table(table, directory / f"{name}.parquet")
    return directory


def test_dunnhumby(tmp_path: Path) -> None:
    result = converted("dunnhumby", written(tmp_path / "log"), tmp_path / "out")
    events = result.rows("events", "timestamp", "user_id", "pin_id", "action", "request_id")
    assert sorted(events, key=str) == sorted(
        [
            ("03-03 00:00:00", "1", "10", "impression", "campaign-1-1"),
            ("03-03 00:00:00", "1", "11", "impression", "campaign-1-1"),
            ("03-03 00:00:00", "3", "10", "impression", "campaign-1-3"),
            ("03-03 00:00:00", "3", "11", "impression", "campaign-1-3"),
            ("11-14 00:00:00", "2", "11", "impression", "campaign-24-2"),
            ("01-28 19:06:53", "1", "10", "checkout", None),
            ("01-28 19:06:53", "1", "11", "checkout", None),
            ("09-30 23:59:59", "2", "10", "checkout", None),
            ("10-01 00:00:00", "2", "77", "checkout", None),
        ],
        key=str,
    )
    value = {row[0]: row[1] for row in result.rows("events", "timestamp", "value") if row[1] is not None}
    assert value["09-30 23:59:59"] == pytest.approx(2.1)
    assert result.rows("pins", "pin_id", "advertiser_id", "category", "product_type", "department", "brand") == [
        ("10", "2", "FRZN ICE", "ICE - CRUSHED/CUBED", "GROCERY", "National"),
        ("11", "69", None, None, "PASTRY", "Private"),
        ("77", None, None, None, None, None),
        ("88", None, None, None, None, None),
    ]
    # (3.0 + 2.1) / (2 + 1); no quantity; sold after the prices were taken; never sold.
    assert result.pins["price"].to_pylist() == [pytest.approx(1.7), None, None, None]
    assert result.rows("users", "user_id", "age", "home_ownership", "kids_count") == [
        ("1", None, None, None),
        ("2", "65+", None, "0"),
        ("3", None, None, None),
    ]


def test_the_full_transactions_are_read_where_they_are_there(tmp_path: Path) -> None:
    full = pa.concat_tables([tables()["transactions_sample"]] * 2)
    result = converted("dunnhumby", written(tmp_path / "log", transactions=full), tmp_path / "out")
    assert result.events["action"].to_pylist().count("checkout") == 8


def without(name: str, column: str) -> dict[str, pa.Table]:
    return {name: tables()[name].drop_columns([column])}


def instead(name: str, column: str, values: pa.Array) -> dict[str, pa.Table]:
    table = tables()[name]
    return {name: table.set_column(table.column_names.index(column), column, values)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"coupons": None}, r"expected a directory with coupons\.parquet; found campaign_descriptions\.parquet"),
        ({"transactions_sample": None}, r"with transactions\.parquet or transactions_sample\.parquet; found"),
        (without("products", "manufacturer_id"), r"products\.parquet: expected .*so manufacturer_id is missing"),
        (
            instead("campaign_descriptions", "campaign_type", codes("Type B", "Type D", "Type C")),
            r"campaign_descriptions\.parquet, column campaign_type: expected one of Type A, .*; found 'Type D'",
        ),
        (
            instead("campaign_descriptions", "start_date", text("soon", "2017-05-08", "later")),
            r"column start_date: expected date32\[day\]; found large_string",
        ),
        (
            instead("transactions_sample", "household_id", text("1", "1", None, "2")),
            "transactions_sample.parquet, row 3, column household_id: expected a value; found none",
        ),
        (
            instead("transactions_sample", "quantity", text("1", "2", "three", "4")),
            "column quantity: expected double; found large_string .*three",
        ),
    ],
)
def test_what_is_wrong_in_a_table_is_named(changed: dict[str, pa.Table | None], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        converted("dunnhumby", written(tmp_path / "log", **changed), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]


def test_a_table_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    directory = written(tmp_path / "log")
    (directory / "coupons.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(StorageError, match=r"coupons\.parquet"):
        converted("dunnhumby", directory, tmp_path / "out")
