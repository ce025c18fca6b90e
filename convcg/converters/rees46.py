"""REES46's eCommerce behaviour data: one CSV file a month, plain or .gz, one row an event.

`event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session`

view is a click (the product's page was opened), cart add_to_cart, purchase checkout with the price as value.
remove_from_cart has no place in the contract and is left out. A pin is a product with the last category, brand and
price that the log knows: category is the code with its dots ("electronics.smartphone"), null where the log has none,
`category_id` the shop's own number, the brand is the advertiser. Prices below zero are refunds, read as unknown.
Sessions are left out: they are no requests. Of users the log knows nothing, so there is no users table.
"""

import pyarrow as pa
import pyarrow.compute as pc

from convcg.converters.latest import Latest
from convcg.converters.output import Output
from convcg.converters.source import files_ending
from convcg.converters.text_rows import TextRows, read_csv
from convcg.storage import Location
from convcg.types import Action

_COLUMNS = ("event_time", "event_type", "product_id", "category_id", "category_code", "brand", "price", "user_id")
_ACTIONS = {
    "view": Action.CLICK.value,
    "cart": Action.ADD_TO_CART.value,
    "remove_from_cart": None,
    "purchase": Action.CHECKOUT.value,
}


def convert(source: Location, output: Output) -> None:
    """Convert one file, or every .csv and .csv.gz of a directory in the order of their names.

    Raises:
        DataError: a file is not of this format.
        StorageError: a file cannot be read, or a table not written.
    """
    pins = Latest(
        {
            "pin_id": pa.string(),
            "advertiser_id": pa.string(),
            "category": pa.string(),
            "category_id": pa.string(),
            "price": pa.float64(),
        }
    )
    for file in files_ending(source, ".csv"):
        for rows in read_csv(file, _COLUMNS):
            output.events(_events(rows))
            pins.add(
                {
                    "pin_id": rows.ids("product_id"),
                    "advertiser_id": rows.texts("brand"),
                    "category": rows.texts("category_code"),
                    "category_id": rows.texts("category_id"),
                    "price": rows.prices("price"),
                }
            )
    output.pins(pins.table())


def _events(rows: TextRows) -> pa.Table:
    action = rows.chosen("event_type", _ACTIONS)
    events = pa.table(
        {
            "timestamp": rows.datetimes("event_time", suffix=" UTC"),
            "user_id": rows.ids("user_id"),
            "pin_id": rows.ids("product_id"),
            "action": action,
            "value": pc.if_else(pc.equal(action, Action.CHECKOUT.value), rows.prices("price"), None),
        }
    )
    return events.filter(action.is_valid())
