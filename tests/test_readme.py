"""The README's map is true: every source file is in it, once, with a comment."""

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]
FOLDERS = ("convcg", "ray_jobs", "serve_app", "benchmarks")


def entries() -> dict[str, str]:
    section = (PROJECT / "README.md").read_text().split("## The map")[1].split("\n## ")[0]
    lines = re.findall(r"^    (\S+\.(?:py|yaml))\s+# (.+)$", section, flags=re.MULTILINE)
    assert len(lines) == len({path for path, _ in lines}), "a file is named twice"
    return dict(lines)


def test_map_names_every_file_and_nothing_else() -> None:
    files = {
        str(path.relative_to(PROJECT))
        for folder in FOLDERS
        for path in (PROJECT / folder).rglob("*")
        if path.suffix in (".py", ".yaml") and path.name != "__init__.py" and "__pycache__" not in path.parts
    }
    assert set(entries()) - {"cluster.yaml"} == files


def test_every_entry_says_something() -> None:
    assert all(len(comment) > 10 for comment in entries().values())


def test_files_stay_short() -> None:
    long = {
        str(path.relative_to(PROJECT)): count
        for folder in FOLDERS
        for path in (PROJECT / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 300
    }
    assert not long
