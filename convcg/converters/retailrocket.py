"""RetailRocket's data set: a directory with three kinds of CSV files.

events.csv                        `timestamp,visitorid,event,itemid,transactionid`, milliseconds
item_properties_part1/2.csv       `timestamp,itemid,property,value`, one row a change
category_tree.csv                 `categoryid,parentid`, no parent at the roots

view is a click, addtocart add_to_cart, transaction checkout. A pin is an item of the events or the properties, with
the category that its latest `categoryid` property names, and `category_path`, that category and all above it, root
first (a bag of words for the model). Of the other properties only `available` is not anonymous; it changes by the
week, and a pin has one row, so it is left out. There are no prices, no advertisers, no users table.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from convcg.converters.latest import Latest
from convcg.converters.output import Output
from convcg.converters.source import required_file
from convcg.converters.text_rows import read_csv
from convcg.errors import DataError
from convcg.storage import Location
from convcg.types import Action

_ACTIONS = {"view": Action.CLICK.value, "addtocart": Action.ADD_TO_CART.value, "transaction": Action.CHECKOUT.value}
_PROPERTIES = ("item_properties_part1.csv", "item_properties_part2.csv")
_DEEPEST = 64


def convert(source: Location, output: Output) -> None:
    """Convert the directory.

    Raises:
        DataError: a file is missing, or not of this format.
        StorageError: a file cannot be read, or a table not written.
    """
    events, tree, *properties = (
        required_file(source, name) for name in ("events.csv", "category_tree.csv", *_PROPERTIES)
    )
    paths = _paths(tree)
    pins = Latest({"pin_id": pa.string(), "category": pa.string()})
    for rows in read_csv(events, ("timestamp", "visitorid", "event", "itemid")):
        item = rows.ids("itemid")
        pins.add({"pin_id": item})
        output.events(
            pa.table(
                {
                    "timestamp": rows.epochs("timestamp", unit="ms"),
                    "user_id": rows.ids("visitorid"),
                    "pin_id": item,
                    "action": rows.chosen("event", _ACTIONS),
                }
            )
        )
    _add_categories(pins, properties)
    table = pins.table()
    place = pc.index_in(table["category"], value_set=paths["category"])
    output.pins(table.append_column("category_path", paths["path"].take(place)))


def _add_categories(pins: Latest, files: Sequence[Location]) -> None:
    """Every item, and each item's categories in the order of time: the files are in no order at all."""
    changes = []
    for file in files:
        for rows in read_csv(file, ("timestamp", "itemid", "property", "value")):
            item = rows.ids("itemid")
            pins.add({"pin_id": item})
            columns = {"time": rows.epochs("timestamp", unit="ms"), "pin_id": item, "category": rows.texts("value")}
            changes.append(pa.table(columns).filter(pc.equal(rows.ids("property"), "categoryid")))
    if changes:
        in_time = pa.concat_tables(changes).sort_by("time")
        pins.add({"pin_id": in_time["pin_id"], "category": in_time["category"]})


def _paths(tree: Location) -> pa.Table:
    """Each category and the list of those above it and itself, root first.

    Raises:
        DataError: the tree has a category twice, or a circle.
    """
    blocks = [
        pa.table({"category": rows.ids("categoryid"), "parent": rows.texts("parentid")})
        for rows in read_csv(tree, ("categoryid", "parentid"))
    ]
    if not blocks:
        raise DataError(f"{tree.uri}: expected categories; found none.")
    table = pa.concat_tables(blocks)
    category, parent = table["category"].combine_chunks(), table["parent"].combine_chunks()
    counts = category.value_counts()
    repeated = pc.greater(counts.field("counts"), 1)
    if repeated.true_count:
        twice = counts.field("values").filter(repeated)[0]
        raise DataError(f"{tree.uri}, column categoryid: expected each category once; found {twice} more than once.")
    above, levels = category, []
    while above.null_count < len(above):
        levels.append(above)
        above = parent.take(pc.index_in(above, value_set=category))
        if len(levels) > _DEEPEST:
            circle = above.drop_null()[0]
            raise DataError(f"{tree.uri}, column parentid: expected a tree; found {circle} among its own ancestors.")
    # Ids are numbers, so no id holds the separator.
    joined = pc.binary_join_element_wise(*reversed(levels), "/", null_handling="skip")
    return pa.table({"category": category, "path": pc.split_pattern(joined, "/")})
