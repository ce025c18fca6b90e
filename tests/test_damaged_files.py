"""Files that are no Parquet, or are damaged in any place: one clear message names the file, whatever the damage."""

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contract_tables import broken, events, pins, validated

from convcg.data.violation import Rule
from convcg.errors import DataError


@pytest.fixture
def check(tmp_path):
    return partial(validated, tmp_path)


def test_files_that_cannot_be_read(check, tmp_path):
    directory = tmp_path / "mixed"
    directory.mkdir()
    pq.write_table(events(), directory / "a.parquet")
    (directory / "b.parquet").write_bytes(b"PAR1 not really PAR1")
    cut = (directory / "a.parquet").read_bytes()
    (directory / "c.parquet").write_bytes(cut[: len(cut) // 2])
    report = check(events=str(directory), pins=str(tmp_path / "nowhere"))
    assert {(Path(v.file).name, v.rule) for v in report.violations} == {
        ("b.parquet", Rule.UNREADABLE),
        ("c.parquet", Rule.UNREADABLE),
        ("nowhere", Rule.NO_FILES),
    }


def damaged(kind: str) -> bytes:
    """A Parquet file of events, with the damage that is named."""
    sink = pa.BufferOutputStream()
    rows = pa.concat_tables([events(query=[f"red lamp {number}" for number in range(3)])] * 1000)
    checked, plain = kind.endswith("with checksums"), {"compression": "none", "use_dictionary": False}
    pq.write_table(rows, sink, write_page_checksum=checked, **(plain if checked or kind == "no text" else {}))
    content = bytearray(sink.getvalue().to_pybytes())
    user_ids = pq.ParquetFile(pa.BufferReader(bytes(content))).metadata.row_group(0).column(1)
    assert user_ids.path_in_schema == "user_id"
    inside = user_ids.data_page_offset + user_ids.total_compressed_size // 2
    match kind:
        case "empty":
            return b""
        case "garbage":
            return bytes(range(256)) * 40
        case "not Parquet":
            return b"timestamp,user_id,pin_id,action\n" * 100
        case "cut":
            return bytes(content[: len(content) // 2])
        case "another magic":
            content[-4:] = b"PARE"
        case "a page":
            content[inside : inside + 40] = bytes(40)
        case "a page with checksums":
            content[inside] ^= 0b100  # still text, of the same length
        case "no text":
            content[inside : inside + 20] = b"\xff" * 20
        case "a column name":
            content = content.replace(b"user_id", b"us\xffr_id")
    return bytes(content)


DAMAGES = (
    ("empty", "garbage", "not Parquet", "cut", "another magic")
    + ("a page", "a page with checksums", "no text", "a column name")
)  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("max_broken_share", [0.0, 0.5])
def test_a_damaged_file_is_one_clear_message_whatever_is_tolerated(check, tmp_path, kind, max_broken_share):
    path = tmp_path / "damaged.parquet"
    path.write_bytes(damaged(kind))
    report = check(events=str(path), max_broken_share=max_broken_share)
    assert [violation.rule for violation in report.violations] == [Rule.UNREADABLE]
    with pytest.raises(DataError) as error:
        report.raise_if_broken()
    first, remedy = str(error.value).splitlines()[1:]
    assert first.startswith(f"events: {path}: not a readable Parquet file: ")
    assert "copy the file again" in remedy


def test_damage_in_a_feature_of_the_recipe_is_found_in_a_column_outside_of_the_contract(check, tmp_path):
    path = tmp_path / "damaged.parquet"
    pq.write_table(pins(title=["a" * 4000] * 3), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"aaaa", b"\xff\xff\xff\xff"))
    assert broken(check(pins=str(path), features={"pins": []})) == {}
    assert broken(check(pins=str(path), features={"pins": ["title"]})) == {("pins", None, Rule.UNREADABLE): 0}
