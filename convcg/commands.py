"""What every command shares: one way to end. A user's error is one clear line and exit code 1, never a traceback."""

import sys
from collections.abc import Callable, Sequence

import typer
from rich.console import Console

from convcg.errors import ConvcgError


def invoke(app: typer.Typer, argv: Sequence[str] | None, *, name: str) -> int:
    """Run a typer application on `argv` (without the program's name) and return the exit code of the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: app(args=arguments, prog_name=name))


def run(function: Callable[[], object]) -> int:
    """Call `function`; 0 where it returns, 1 after a user's error, 2 after a wrong option, 130 after an interrupt."""
    try:
        function()
    except ConvcgError as error:
        _complain(str(error))
        return 1
    except SystemExit as end:  # how typer ends: 0, or 2 after a wrong option that it has explained
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    return 0


def _complain(message: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False).print(f"error: {message}")
