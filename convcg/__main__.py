"""The command line: `convcg <verb>`. Each verb is a module of `ray_jobs` or `serve_app` with a `main(argv)`.

The modules are named here and imported on use, so that the library below stays free of Ray and `convcg --help` is
instant.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from rich.console import Console
from rich.table import Table

VERBS = {
    "prepare": ("ray_jobs.prepare", "events, pins and users to training examples and tables"),
    "graph": ("ray_jobs.graph", "vectors of pins from who acted on what, where the recipe asks for them"),
    "train": ("ray_jobs.train", "the two towers, from prepared data; resumes where it stopped"),
    "index": ("ray_jobs.index", "embed the catalogue and write the bundle"),
    "evaluate": ("ray_jobs.evaluate", "exact recall of the bundle beside the baselines, and the gate"),
    "publish": ("ray_jobs.publish", "make a bundle the current one of a channel; --rollback goes back"),
    "world": ("ray_jobs.world", "write the built-in world, of any size"),
    "import": ("convcg.converters.command", "public logs to the three tables"),
    "pipeline": ("ray_jobs.pipeline", "prepare to publish, skipping what has not changed"),
    "ladder": ("ray_jobs.ladder", "what each change from one recipe to another is worth, over seeds"),
    "compare": ("convcg.compare", "which of several runs finds more, and whether that is shown"),
    "report": ("convcg.report.command", "one page that says what a run finds"),
    "serve": ("serve_app.serve", "answer requests for candidates over HTTP"),
    "query": ("serve_app.query", "ask a running service from the command line"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in VERBS:
        return int(import_module(VERBS[verb][0]).main(rest))
    if verb in ("-h", "--help", "help"):
        _print_help()
        return 0
    print(f"error: {verb!r} is no verb. Verbs: {', '.join(VERBS)}.", file=sys.stderr)
    return 2


def _print_help() -> None:
    console = Console(highlight=False)
    console.print("convcg: train and serve shopping conversion candidate generation.\n\nUsage: convcg VERB [OPTIONS]\n")
    table = Table(box=None, show_header=False, pad_edge=False)
    for verb, (_, what) in VERBS.items():
        table.add_row(f"  {verb}", what)
    console.print(table)
    console.print("\n`convcg VERB --help` lists the options of a verb.")


if __name__ == "__main__":
    sys.exit(main())
