"""`convcg serve`: answer requests for candidates over HTTP until told to stop.

python -m serve_app.serve --bundle runs/demo/channel --set serve.port=8000
"""

import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from convcg import log
from convcg.bundle import Bundle
from convcg.commands import invoke
from convcg.errors import ConfigError, ConvcgError
from convcg.serving import ServeConfig
from serve_app.environment import is_free, prepare_environment

if TYPE_CHECKING:
    from serve_app.app import ServeArguments
    from serve_app.deployments import Release

_NAME = "convcg"
_CONNECT_SECONDS = 5.0
_log = logging.getLogger(__name__)
_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@_app.command()
def _command(
    bundle: Annotated[str, typer.Option(help="A bundle, or a channel of published bundles: a directory or URI.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="serve.* and retrieval.* settings: a.b=c.")] = None,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A running Ray; without it one is started here.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what Ray and the replicas log.")] = False,
) -> None:
    """Answer requests for candidates over HTTP until interrupted; follows a channel to each new bundle."""
    log.set_up(verbose=verbose)
    prepare_environment()
    from serve_app.app import ServeArguments, release_of  # only now: they import Ray, which reads the environment

    arguments = ServeArguments(bundle=bundle, sets=tuple(sets or ()))
    release = release_of(arguments)
    Bundle.open(release.uri)  # what is wrong with it shows here, before Ray is started
    if address is None:
        _require_free_port(release.serve)
    else:
        _require_listener(address)
    with _ray(release, address, verbose=verbose), _stop_signal() as stopped:
        _start(release)
        _run(release)
        config = release.serve
        typer.echo(
            f"Serving {release.model_version} at http://{config.host}:{config.port} "
            f"(topology {config.topology.value}), API page /docs"
        )
        _follow(arguments, release, stopped)
        typer.echo("stopping")
        _stop()


def _follow(arguments: "ServeArguments", release: "Release", stopped: threading.Event) -> None:
    """Replace the release, replica by replica, whenever the channel has another bundle; a bundle stays what it is."""
    from serve_app.app import release_of

    while not stopped.wait(release.serve.refresh_seconds):
        try:
            newer = release_of(arguments)
            if newer.model_version != release.model_version:
                Bundle.open(newer.uri)
                _run(newer)
                release = newer
                _log.info("now serving %s", release.model_version)
        except ConvcgError as error:
            _log.error("still serving %s, because the channel has no usable bundle: %s", release.model_version, error)


def _require_free_port(config: ServeConfig) -> None:
    try:
        free = is_free(config.port, config.host)
    except OSError as error:  # not a port's, but the host name's fault
        raise ConfigError(f"serve.host = {config.host!r} is no address of this machine: {error}.") from error
    if not free:
        raise ConfigError(
            f"cannot listen on {config.host}:{config.port}: the port is in use, or the host is not this machine's. "
            "Stop what listens there, or choose another with --set serve.port=8001."
        )


def _require_listener(address: str) -> None:
    """Ray itself takes minutes to give up on an address where nothing is."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray answers at {address}: {error}. Check --address, or run without it.") from error


@contextmanager
def _ray(release: "Release", address: str | None, *, verbose: bool) -> Iterator[None]:
    """Ray, joined or started with enough logical CPUs to hold a release and, while it is replaced, the next one."""
    import ray

    from serve_app.app import logical_cpus

    if not verbose:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else max(os.cpu_count() or 1, math.ceil(2 * logical_cpus(release))),
            include_dashboard=None if address else False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"join Ray at {address}" if address else "start Ray"
        raise ConfigError(f"cannot {where}: {error}. Check --address, or run without it.") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(release: "Release") -> None:
    from ray import serve

    config = release.serve
    options = {"host": config.host, "port": config.port, "request_timeout_s": config.request_timeout_seconds}
    serve.start(http_options=options, logging_config={"enable_access_log": False})


def _run(release: "Release") -> None:
    """Deploy a release in the place of the one before.

    Raises:
        ConvcgError: its replicas cannot start.
    """
    from ray import serve

    from serve_app.app import build_release

    try:
        serve.run(build_release(release), name=_NAME, route_prefix="/")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConvcgError(f"the service did not start: {reason}. Run again with -v for the replicas' logs.") from error


def _stop() -> None:
    """Let the replicas finish what they have begun; the proxy of a Ray that was joined stays for other applications."""
    from ray import serve

    serve.delete(_NAME)


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that is set by SIGINT or SIGTERM."""
    stopped = threading.Event()
    earlier = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return invoke(_app, argv, name="convcg serve")


if __name__ == "__main__":
    sys.exit(main())
