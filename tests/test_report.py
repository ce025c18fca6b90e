"""The report: one page that stands on its own, for runs with everything and for runs with the ranks alone."""

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest

from convcg import compare
from convcg.ranks import read_measured
from convcg.report import command
from convcg.report.facts import read_facts
from tests.measured import leave, ranks

SVG = "{http://www.w3.org/2000/svg}"
ATTACK = '</h1><script>alert("1")</script>&amp;'
RECALLS = {"model": 0.4, "popularity": 0.1, "item_item": 0.25, "oracle": 0.6}


def a_pin(number: int) -> dict[str, Any]:
    return {
        "pin_id": f"pin_{number}", "advertiser_id": f"shop_{number % 5}", "category": "lamps", "price": 12.5 + number,
        "in_stock": True, "empty": None,
    }  # fmt: skip


def a_sample(**changed: Any) -> dict[str, Any]:
    return {
        "user_id": "user_7", "surface": "search", "time": 1_760_000_000_000_000, "query": "red lamp", "subject": None,
        "history": [{"action": "click", "days_ago": 0.01 * 4**at, "pin": a_pin(100 + at)} for at in range(12)],
        "candidates": [{"score": 0.9 - 0.05 * at, "pin": a_pin(at)} for at in range(10)],
        "target": a_pin(3), "rank": 4,
    } | changed  # fmt: skip


def a_run(directory: Path, *, num_seeds: int = 2) -> Path:
    """A run with all that a run can have."""
    for seed in range(num_seeds):
        place = directory / f"seed-{seed}"
        table = ranks(RECALLS, seed=seed)
        table = table.append_column("slice:novelty", pa.array(["novel", "seen", "bought", "seen"] * 300))
        leave(place, table)
        (place / "config.yaml").write_text("model: {dim: 64}\n")
        names = [f"recall@{k}" for k in (20, 100, 1000)]
        coverage = {f"coverage@{k}": 0.5 for k in (20, 100, 1000)} | {"advertiser_entropy@100": 0.75}
        metrics = {
            "num_pins": 3217,
            "recall": {name: dict.fromkeys(names, 0.1) for name in RECALLS},
            "coverage": dict.fromkeys(RECALLS, coverage),
            "served_recall": {name: dict.fromkeys(names, 0.321) for name in RECALLS},
            "num_served_pins": 2171,
            "num_served_queries": 1171,
        }
        (place / "metrics.json").write_text(json.dumps(metrics))
        samples = [
            a_sample(),
            a_sample(surface="related_pins", query=None, subject=a_pin(9), rank=None, history=[], target=a_pin(50)),
        ]
        (place / "samples.json").write_text(json.dumps(samples))
        (place / "stages").mkdir()
        (place / "stages" / "train.json").write_text(json.dumps({"fingerprint": "abc", "seconds": 3}))
        for fingerprint in ("abc", "old"):
            log = place / "train" / f"run-{fingerprint}"
            log.mkdir(parents=True)
            lines: list[dict[str, float]] = [
                {"step": 20 * at, "loss": 7 / at, "temperature": 0.07 - 0.001 * at} for at in range(1, 30)
            ]
            lines += [{"step": 120 * at, "validation_recall_at_100": 0.1 * at} for at in range(1, 5)]
            (log / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def page_of(*arguments: str, out: Path) -> str:
    assert command.main([*arguments, "--out", str(out)]) == 0
    return out.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a run with a comparison and a ladder."""
    directory = tmp_path_factory.mktemp("report")
    run, other = a_run(directory / "best"), directory / "other"
    for seed in range(2):
        leave(other / f"seed-{seed}", ranks({"model": 0.3}, seed=seed))
    assert compare.main([str(run), str(other), "--slice", "surface", "--out", str(directory / "compare.json")]) == 0
    stored = json.loads((directory / "compare.json").read_text())
    rows = stored["tables"][0]["rows"]
    ladder = {
        "ks": [20, 100, 1000],
        "tables": [{"direction": "cumulative", "rows": rows}, {"direction": "out", "rows": rows[:1]}],
        "failures": [{"setting": "add-x", "seed": 2, "error": "TrainingError: the loss is not finite"}],
    }
    (directory / "ladder.json").write_text(json.dumps(ladder))
    more = ["--compare", str(directory / "compare.json"), "--ladder", str(directory / "ladder.json")]
    page_of(str(run), *more, out=directory / "report.html")
    return directory / "report.html"


def parsed(page: str) -> ElementTree.Element:
    """The page as a tree, which only well-formed text becomes."""
    return ElementTree.fromstring(page)


def shown(page: str) -> str:
    parts = [part for part in parsed(page).iter() if part.tag != "style"]
    return " ".join(text for part in parts for text in (part.text, part.tail) if text).replace(
        "\N{NO-BREAK SPACE}", " "
    )


def test_the_page_says_what_was_found_and_beside_what(whole: Path) -> None:
    text = shown(whole.read_text())
    assert re.search(
        r"has the very pin among them in (39|40|41) % of 1,200 cases, where the best simple method, item", text
    )
    assert re.search(r"of what could be known \(the oracle\) 6\d %", text)
    assert "3,217" in text
    assert "trained 2 times" in text


def test_every_part_has_its_section_and_its_plots(whole: Path) -> None:
    page = parsed(whole.read_text())
    assert [heading.text for heading in page.iter("h2")] == [
        "What was asked", "How much is found", "For whom, and what", "Compared with other runs",
        "What each change is worth", "How it was trained", "How varied the candidates are", "A few people", "Words",
        "Settings",
    ]  # fmt: skip
    plots = [figure for figure in page.iter("figure") if figure.find(f"{SVG}svg") is not None]
    assert len(plots) == 1 + 2 + 2 + 1 + 3  # systems, slices, comparison, ladder, curves
    assert all(plot.findtext("figcaption", "").rstrip().endswith(".") for plot in plots)
    assert "red: worse" in shown(whole.read_text())
    assert "add-x, seed 2: TrainingError: the loss is not finite" in shown(whole.read_text())


def test_slices_are_in_an_order_that_means_something(whole: Path) -> None:
    rows = [[cell.text for cell in row] for row in parsed(whole.read_text()).iter("tr")]
    values = [row[:2] for row in rows if row[0] in ("novel", "seen", "bought")]
    assert values == [["novel", "300"], ["seen", "600"], ["bought", "300"]]


def test_curves_are_of_the_last_training_alone(tmp_path: Path) -> None:
    facts = read_facts(read_measured(str(a_run(tmp_path / "run"))))
    assert [len(facts.curves[name]) for name in ("loss", "temperature", "validation_recall_at_100")] == [2, 2, 2]
    assert facts.curves["loss"][0][:2] == [(20, 7.0), (40, 3.5)]


def test_a_person_is_shown_with_history_candidates_and_the_bought_pin_marked(whole: Path) -> None:
    page = parsed(whole.read_text())
    marked = [["".join(cell.itertext()) for cell in row] for row in page.iter("tr") if row.get("class") == "marked"]
    assert [row for row in marked if row[0] == "4"] == [
        ["4", "0.750", "pin_3", "shop_3", "lamps", "15.5", "yes", "◆ bought"]
    ]
    text = shown(whole.read_text())
    assert "user_7 searched for “red lamp”." in text
    assert "What this person had done, and 4 actions before:" in text
    assert "it was not among the candidates:" in text
    assert "empty" not in [cell.text for cell in page.iter("th")]


def test_a_run_with_the_ranks_alone_makes_a_page(tmp_path: Path) -> None:
    run = leave(tmp_path / "bare", ranks({"model": 0.4}))
    text = shown(page_of(str(run), out=tmp_path / "report.html"))
    for said in (
        "The model was trained once",
        "No record of the training",
        "The run has left no samples",
        "Not measured",
    ):
        assert said in text
    assert "nan" not in text


def test_the_page_stands_on_its_own_and_is_always_the_same(whole: Path, tmp_path: Path) -> None:
    page = whole.read_text()
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|@font-face", page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) <= {f"#{name}" for name in ids}
    assert set(re.findall(r"https?://[^\"' ]*", page)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    run = whole.parent / "best"
    assert page_of(str(run), out=tmp_path / "one.html") == page_of(str(run), out=tmp_path / "two.html")


def test_texts_of_the_log_are_escaped(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", num_seeds=1)
    pin = a_pin(1) | {"category": ATTACK}
    sample = a_sample(user_id=ATTACK, query=ATTACK, target=pin, candidates=[{"score": 1.0, "pin": pin}])
    (run / "seed-0" / "samples.json").write_text(json.dumps([sample]))
    page = page_of(str(run), out=tmp_path / "report.html")
    assert "<script" not in page
    assert shown(page).count(ATTACK) >= 4


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--compare", "{", "is no JSON"),
        ("--compare", "[]", "holds no tables of convcg compare or ladder"),
        (
            "--ladder",
            '{"ks": [100], "tables": [{"rows": [{"name": 3}]}]}',
            "holds no table of convcg compare or ladder",
        ),
    ],
)
def test_a_file_that_is_something_else_ends_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, content: str, message: str
) -> None:
    run = leave(tmp_path / "run", ranks({"model": 0.4}, num_users=9))
    (tmp_path / "other.json").write_text(content)
    out = tmp_path / "report.html"
    assert command.main([str(run), option, str(tmp_path / "other.json"), "--out", str(out)]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_damaged_metrics_end_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = leave(tmp_path / "run", ranks({"model": 0.4}, num_users=9))
    (run / "metrics.json").write_text("{")
    assert command.main([str(run), "--out", str(tmp_path / "report.html")]) == 1
    assert "metrics.json is damaged" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_lays_the_page_out_without_a_scroll_bar(whole: Path, tmp_path: Path, width: int) -> None:
    browser = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("needs Chromium")
    # In a frame of this width, since the window of a headless browser has a least width of its own.
    measure = "document.title = [d.scrollWidth, d.clientWidth, d.querySelectorAll('svg').length].join(' ')"
    frame = (
        f'<iframe width="{width}" height="9000" srcdoc="{escape(whole.read_text())}" '
        f'onload="const d = this.contentDocument.documentElement; {measure}"></iframe>'
    )
    (tmp_path / "frame.html").write_text(f'<!DOCTYPE html><meta charset="utf-8"/><title></title>{frame}')
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    dom = subprocess.run(
        [*command, f"file://{tmp_path}/frame.html"], capture_output=True, text=True, timeout=120
    ).stdout
    (title,) = re.findall("<title>(.*?)</title>", dom)[:1]
    needed, available, plots = map(int, title.split())
    assert needed <= available
    assert plots == 9
