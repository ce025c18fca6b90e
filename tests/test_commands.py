"""The command line: instant help, exit codes, and a user's error as one line instead of a traceback."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from convcg.__main__ import VERBS, main
from convcg.commands import invoke, run
from convcg.errors import ConfigError, DataError


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], []], ids=str)
def test_help_lists_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)


def test_help_imports_neither_ray_nor_torch() -> None:
    program = (
        "import sys; from convcg.__main__ import main; code = main(['--help']); "
        "print(code, [name for name in ('ray', 'torch', 'pyarrow', 'pandas') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0 []"


@pytest.mark.parametrize("verb", ["trian", "[/x]", "[red]"])
def test_an_unknown_verb_ends_with_2_and_names_the_known_ones(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"{verb!r} is no verb" in printed.err
    assert all(known in printed.err for known in VERBS)
    assert len(printed.err.splitlines()) == 1


def test_a_users_error_is_one_line_on_stderr_and_exit_code_1() -> None:
    arguments = ["-m", "convcg", "prepare", "--recipe", "nonsense"]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: recipe 'nonsense' is not known.")


@pytest.mark.parametrize("error", [ConfigError, DataError])
def test_errors_of_users_are_shown_as_they_are(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    text = "the path [red]/a/b[/nope] is :smile: " + "long " * 60
    assert run(raising(error(text))) == 1
    assert capsys.readouterr().err == f"error: {text}\n"


def test_a_broken_invariant_of_ours_is_not_hidden() -> None:
    with pytest.raises(AssertionError):
        run(raising(AssertionError()))


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(), 0), (SystemExit(3), 3), (SystemExit("no"), 1)]
)
def test_other_ends_have_the_usual_codes(error: BaseException, code: int) -> None:
    assert run(raising(error)) == code


def test_success_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: "anything") == 0
    assert capsys.readouterr() == ("", "")


def test_an_unknown_option_is_explained_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer(add_completion=False)

    @app.command()
    def command(size: int = 1) -> None:
        raise ConfigError(f"size {size}")

    assert invoke(app, ["--siz", "3"], name="convcg test") == 2
    assert "--siz" in capsys.readouterr().err
    assert invoke(app, ["--size", "x"], name="convcg test") == 2
    assert invoke(app, ["--help"], name="convcg test") == 0
    assert "convcg test" in capsys.readouterr().out
    assert invoke(app, ["--size", "3"], name="convcg test") == 1
    assert capsys.readouterr().err == "error: size 3\n"
