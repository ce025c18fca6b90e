"""REES46, RetailRocket and Alibaba's ads: small files in the exact formats against tables worked out by hand."""

import gzip
from pathlib import Path

import pytest
from converted import converted, write

from convcg.errors import DataError

REES46 = """event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session
2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde
2019-10-01 00:00:01 UTC,cart,3900821,2053013552326770905,appliances.environment.heater,aqua,33.20,554748717,9333dfbd
2019-10-01 00:00:01 UTC,cart,3900821,2053013552326770905,appliances.environment.heater,aqua,33.20,554748717,9333dfbd
2019-10-01 00:00:05 UTC,remove_from_cart,3900821,2053013552326770905,,,33.20,554748717,9333dfbd
2019-10-31 23:59:59 UTC,purchase,3900821,2053013552326770905,,,31.00,554748717,
2019-10-31 23:59:59 UTC,view,17200506,2053013559792632471,furniture.living_room.sofa,,-5.00,519107250,566511c2
"""


def test_rees46(tmp_path: Path) -> None:
    result = converted("rees46", write(tmp_path / "2019-Oct.csv", REES46), tmp_path / "out")
    assert result.rows("events", "timestamp", "user_id", "pin_id", "action") == [
        ("10-01 00:00:00", "541312140", "44600062", "click"),
        ("10-01 00:00:01", "554748717", "3900821", "add_to_cart"),
        ("10-01 00:00:01", "554748717", "3900821", "add_to_cart"),
        ("10-31 23:59:59", "554748717", "3900821", "checkout"),
        ("10-31 23:59:59", "519107250", "17200506", "click"),
    ]
    assert result.events["value"].to_pylist() == [None, None, None, 31.0, None]
    assert str(result.events["timestamp"].type) == "timestamp[us, tz=UTC]"
    assert [
        (pin, brand, category, number, price and round(price, 2))
        for pin, brand, category, number, price in result.rows(
            "pins", "pin_id", "advertiser_id", "category", "category_id", "price"
        )
    ] == [
        ("17200506", None, "furniture.living_room.sofa", "2053013559792632471", None),  # a refund is no price
        ("3900821", "aqua", "appliances.environment.heater", "2053013552326770905", 31.0),
        ("44600062", "shiseido", None, "2103807459595387724", 35.79),
    ]
    assert result.users is None


def test_the_months_of_a_directory_are_read_in_order_packed_or_not(tmp_path: Path) -> None:
    header, *lines = REES46.splitlines(keepends=True)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "2019-Oct.csv.gz").write_bytes(gzip.compress((header + lines[1]).encode()))
    write(tmp_path / "log" / "2019-Nov.csv", header + lines[0])
    write(tmp_path / "log" / "notes.txt", "not a log")
    result = converted("rees46", tmp_path / "log", tmp_path / "out")
    assert result.events["pin_id"].to_pylist() == ["44600062", "3900821"]


@pytest.mark.parametrize(
    ("old", "new", "where", "expected", "found"),
    [
        ("event_type,", "", "line 1", "expected a header with each of event_time,event_type", "event_type is missing"),
        (",", ";", "line 1", "separated by commas", "event_time;event_type;"),
        ("cart,3900821", "favourite,3900821", "row 2, column event_type", "expected one of view, cart", "'favourite'"),
        ("00:00:01 UTC", "00:00:01", "row 2, column event_time", "YYYY-MM-DD HH:MM:SS UTC", "'2019-10-01 00:00:01'"),
        ("2019-10-01 00:00:01", "01.10.2019 00:01", "row 2, column event_time", "YYYY-MM-DD", "01.10.2019"),
        ("2019-10-31 23", "1969-10-31 23", "row 5, column event_time", "between 2000 and now", "1969"),
        ("33.20", "cheap", "row 2, column price", "expected a number", "'cheap'"),
        ("35.79", "nan", "row 1, column price", "expected a finite number", "'nan'"),
        (",554748717,", ",,", "row 2, column user_id", "expected an id", "found nothing"),
        ("44600062,", "", "line 2", "expected 9 columns", "found 8"),
    ],
)
def test_a_file_of_another_format_is_one_error_with_the_place(
    old: str, new: str, where: str, expected: str, found: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "log.csv", REES46.replace(old, new))
    with pytest.raises(DataError) as caught:
        converted("rees46", path, tmp_path / "out")
    message = str(caught.value)
    assert f"{path}, {where}" in message
    assert expected in message
    assert found in message
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log.csv"]


def test_rows_keep_their_numbers_in_a_file_of_many_blocks(tmp_path: Path) -> None:
    header, first, *_ = REES46.splitlines(keepends=True)
    path = write(tmp_path / "log.csv", header + first * 60_000 + first.replace("view", "look") + first)
    assert path.stat().st_size > 5_000_000
    with pytest.raises(DataError, match=r"log\.csv, row 60001, column event_type: .* found 'look'"):
        converted("rees46", path, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"\n", b"a,b\n\xff\xfe,1\n", b"\x00\x01\x02"])
def test_a_file_that_is_no_csv_is_a_data_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"log\.csv"):
        converted("rees46", tmp_path / "log.csv", tmp_path / "out")


def test_text_that_is_no_utf8_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(REES46.encode().replace(b"aqua", b"\xff\xfe"))
    with pytest.raises(DataError, match=r"log\.csv.*UTF8"):
        converted("rees46", tmp_path / "log.csv", tmp_path / "out")


EVENTS = """timestamp,visitorid,event,itemid,transactionid
1433221332117,257597,view,355908,
1433224214164,992329,addtocart,248676,
1433224214999,992329,transaction,248676,4000
"""
PROPERTIES = """timestamp,itemid,property,value
1435460400000,460429,categoryid,1338
1441508400000,206783,888,1116713 960601 n277.200
1439089200000,248676,categoryid,299
"""
EARLIER = """timestamp,itemid,property,value
1431226800000,248676,categoryid,1338
1431226800000,355908,available,1
"""
TREE = """categoryid,parentid
1338,213
299,1338
213,
"""


def retailrocket(directory: Path, **changed: str) -> Path:
    files = {
        "events": EVENTS,
        "item_properties_part1": PROPERTIES,
        "item_properties_part2": EARLIER,
        "category_tree": TREE,
    }
    for name, text in (files | changed).items():
        write(directory / f"{name}.csv", text)
    return directory


def test_retailrocket(tmp_path: Path) -> None:
    result = converted("retailrocket", retailrocket(tmp_path / "log"), tmp_path / "out")
    assert result.rows("events", "timestamp", "user_id", "pin_id", "action") == [
        ("06-02 05:02:12", "257597", "355908", "click"),
        ("06-02 05:50:14", "992329", "248676", "add_to_cart"),
        ("06-02 05:50:14", "992329", "248676", "checkout"),
    ]
    assert result.events["timestamp"][0].as_py().microsecond == 117_000
    # Of two categories the later one counts, though its file is read first.
    assert result.rows("pins", "pin_id", "category", "category_path") == [
        ("206783", None, None),
        ("248676", "299", ["213", "1338", "299"]),
        ("355908", None, None),
        ("460429", "1338", ["213", "1338"]),
    ]
    assert result.users is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"events": EVENTS.replace("view", "look")}, r"events\.csv, row 1, column event: expected one of view"),
        (
            {"events": EVENTS.replace("1433221332117", "1433221332")},
            "row 1, column timestamp: expected a time .* in ms",
        ),
        ({"events": EVENTS.replace("1433221332117", "")}, "row 1, column timestamp.*found nothing"),
        ({"category_tree": TREE + "299,213\n"}, r"category_tree\.csv, column categoryid: .* 299 more than once"),
        ({"category_tree": TREE.replace("213,\n", "213,299\n")}, "expected a tree; found"),
        ({"category_tree": "categoryid,parentid\n"}, "expected categories; found none"),
        ({"item_properties_part2": "a,b\n1,2\n"}, r"part2\.csv, line 1"),
    ],
)
def test_what_is_wrong_in_retailrockets_files_is_named(changed: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        converted("retailrocket", retailrocket(tmp_path / "log", **changed), tmp_path / "out")


def test_a_missing_file_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    directory = retailrocket(tmp_path / "log")
    (directory / "category_tree.csv").unlink()
    with pytest.raises(DataError, match=r"expected a directory with category_tree\.csv; found events\.csv, item_"):
        converted("retailrocket", directory, tmp_path / "out")
    with pytest.raises(DataError, match=r"expected a directory with .*; found events\.csv"):
        converted("retailrocket", directory / "events.csv", tmp_path / "out")


RAW_SAMPLE = """user,time_stamp,adgroup_id,pid,nonclk,clk
581738,1494137644,1,430548_1007,1,0
581738,1494137644,3,430548_1007,0,1
449818,1494638778,9,430539_1007,1,0
"""
AD_FEATURE = """adgroup_id,cate_id,campaign_id,customer,brand,price
3,6261,83237,1,95471,170.0
1,4520,99,1,NULL,12.5
"""
# The real header ends in a space.
USER_PROFILE = (
    "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
    "new_user_class_level \n"
    "234,0,5,2,5,,3,0,3\n"
    "449818,1,2,1,2,1,3,1,\n"
)
BEHAVIOR_LOG = """user,time_stamp,btag,cate,brand
558157,1493741625,pv,6250,91286
558157,1493741626,fav,6250,91286
558157,1493741627,cart,6250,91286
234,1493741628,buy,6250,NULL
"""


def ali(directory: Path, **changed: str | None) -> Path:
    files = {
        "raw_sample": RAW_SAMPLE,
        "ad_feature": AD_FEATURE,
        "user_profile": USER_PROFILE,
        "behavior_log": BEHAVIOR_LOG,
    }
    for name, text in (files | changed).items():
        if text is not None:
            write(directory / f"{name}.csv", text)
    return directory


def test_alis_display_ads(tmp_path: Path) -> None:
    result = converted("ali_display_ads", ali(tmp_path / "log"), tmp_path / "out")
    both = "category 6250 brand 91286"
    assert result.rows("events", "timestamp", "user_id", "pin_id", "action", "request_id") == [
        ("05-07 06:14:04", "581738", "1", "impression", "581738-1494137644-430548_1007"),
        ("05-07 06:14:04", "581738", "3", "impression", "581738-1494137644-430548_1007"),
        ("05-13 01:26:18", "449818", "9", "impression", "449818-1494638778-430539_1007"),
        ("05-07 06:14:04", "581738", "3", "click", "581738-1494137644-430548_1007"),
        ("05-02 16:13:45", "558157", both, "click", None),
        ("05-02 16:13:46", "558157", both, "repin", None),
        ("05-02 16:13:47", "558157", both, "add_to_cart", None),
        ("05-02 16:13:48", "234", "category 6250 brand none", "checkout", None),
    ]
    assert result.rows("pins", "pin_id", "advertiser_id", "category", "brand", "campaign_id", "price", "in_stock") == [
        ("1", "1", "4520", None, "99", 12.5, None),
        ("3", "1", "6261", "95471", "83237", 170.0, None),
        ("9", None, None, None, None, None, None),
        ("category 6250 brand 91286", None, "6250", "91286", None, None, False),
        ("category 6250 brand none", None, "6250", None, None, None, False),
    ]
    assert result.rows("users", "user_id", "age_level", "pvalue_level", "new_user_class_level") == [
        ("234", "5", None, "3"),
        ("449818", "2", "1", None),
    ]


def test_without_the_behaviours_there_are_ads_alone(tmp_path: Path) -> None:
    directory = ali(tmp_path / "log", behavior_log=None, user_profile=None)
    result = converted("ali_display_ads", directory, tmp_path / "out")
    assert set(result.events["action"].to_pylist()) == {"impression", "click"}
    assert result.pins["pin_id"].to_pylist() == ["1", "3", "9"]
    assert result.users is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"raw_sample": None}, r"expected a directory with raw_sample\.csv; found ad_feature\.csv, behavior_log"),
        ({"raw_sample": RAW_SAMPLE.replace("1494638778", "1494638778000")}, "row 3, column time_stamp.* in s, "),
        ({"raw_sample": RAW_SAMPLE.replace(",0,1\n", ",0,2\n")}, "row 2, column clk: expected one of 0, 1; found '2'"),
        ({"behavior_log": BEHAVIOR_LOG.replace("fav", "like")}, r"behavior_log\.csv, row 2, column btag: .* pv, fav"),
        (
            {"user_profile": USER_PROFILE.replace("occupation", "job")},
            r"user_profile\.csv, line 1.*occupation is missing",
        ),
    ],
)
def test_what_is_wrong_in_alis_files_is_named(changed: dict[str, str | None], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        converted("ali_display_ads", ali(tmp_path / "log", **changed), tmp_path / "out")
