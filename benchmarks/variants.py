"""Variants of a recipe over seeds: each one's recall, and how much it differs from the first, with an interval.

    python -m benchmarks.variants --recipe jd_dwell --set data.events=EVENTS --set data.pins=PINS --seeds 3 \\
        --variant none:examples.dwell.curve=none --variant log_ratio:examples.dwell.curve=log_ratio

Runs the whole pipeline for every variant and seed (skipping what is done), and compares the ranks that it leaves. A
variant is a name and settings: `name:a.b=c;d.e=f`. The interval is the paired bootstrap over users of the recall that
is averaged over seeds; "seeds" says in how many of them the difference has the sign of the mean.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from convcg.metrics import paired_difference

RANKS = "ranks.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A name, and the settings behind it."""

    name: str
    settings: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Variant":
        """Parse `name:a.b=c;d.e=f`."""
        name, _, settings = text.partition(":")
        return cls(name=name, settings=tuple(part for part in settings.split(";") if part))


def run(variant: Variant, seed: int, *, recipe: str, overrides: Sequence[str], workdir: Path) -> Path:
    """The workdir of a finished run of the pipeline."""
    place = workdir / f"{variant.name}-{seed}"
    settings = [*overrides, *variant.settings, f"train.seed={seed}"]
    command = [sys.executable, "-m", "ray_jobs.pipeline", "--recipe", recipe, "--workdir", str(place)]
    command += [part for setting in settings for part in ("--set", setting)]
    place.mkdir(parents=True, exist_ok=True)
    with (place / "output.txt").open("w") as output:
        subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=True)
    return place


def hits(places: Sequence[Path], system: str, k: int) -> tuple[NDArray[np.float64], list[str]]:
    """[seeds, queries] 1.0 where the target's rank is at most k, and who asked."""
    order = [(name, "ascending") for name in ("user_id", "time", "target")]
    tables = [pq.read_table(place / RANKS).sort_by(order) for place in places]
    asked = tables[0]["user_id"].to_pylist()
    assert all(table["user_id"].to_pylist() == asked for table in tables), "the variants were asked other queries"
    return np.stack([(table[system].to_numpy() <= k).astype(float) for table in tables]), asked


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--variant", dest="variants", action="append", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ks", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--workdir", type=Path, default=Path("runs/variants"))
    arguments = parser.parse_args()
    variants = [Variant.of(text) for text in arguments.variants]
    places = {
        variant.name: [
            run(variant, seed, recipe=arguments.recipe, overrides=arguments.overrides, workdir=arguments.workdir)
            for seed in range(arguments.seeds)
        ]
        for variant in variants
    }
    table = Table(title=f"{arguments.recipe}, {arguments.seeds} seeds; difference to {variants[0].name}")
    for name in ("variant", *(f"recall@{k}" for k in arguments.ks), *(f"difference@{k}" for k in arguments.ks)):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for baseline in ("popularity", "item_item"):
        found = [hits(places[variants[0].name][:1], baseline, k)[0].mean() for k in arguments.ks]
        table.add_row(baseline, *(f"{recall:.4f}" for recall in found))
    for variant in variants:
        cells, differences = [], []
        for k in arguments.ks:
            mine, users = hits(places[variant.name], "model", k)
            first, _ = hits(places[variants[0].name], "model", k)
            recall = mine.mean(1)
            cells.append(f"{recall.mean():.4f} ({recall.min():.4f}..{recall.max():.4f})")
            found = paired_difference(mine.mean(0), first.mean(0), users)
            same_sign = int((np.sign(mine.mean(1) - first.mean(1)) == np.sign(found.mean)).sum())
            differences.append(
                f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}] seeds {same_sign}/{len(recall)}"
            )
        table.add_row(variant.name, *cells, *(differences if variant is not variants[0] else []))
    Console(width=220).print(table)


if __name__ == "__main__":
    main()
