"""Ray reads its switches when it is imported: what must be in the environment before that, on every node."""

import os
import socket
import sys

SERVE_ENVIRONMENT = {
    # Ray's own HTTP proxy costs several milliseconds a request; HAProxy and this mode cost a few hundred microseconds.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # With a cap per advertiser a shard may be asked for much of itself; Ray's default is 4 MB.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(256 << 20),
    # A replica that stops goes on answering this long, so that the proxy has heard of it; Ray's default is 30.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
}
if sys.platform == "linux":  # Ray ships HAProxy for Linux alone
    SERVE_ENVIRONMENT["RAY_SERVE_ENABLE_HA_PROXY"] = "1"

#: Ports that the proxy takes beside the service's own, and Ray's defaults; a second service on a machine needs others.
_SIDE_PORTS = {
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
}


def prepare_environment() -> None:
    """Set what is not set yet. A Ray that already runs must have been started with the same variables."""
    for name, value in SERVE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name, port in _SIDE_PORTS.items():
        if name not in os.environ and not is_free(port, "0.0.0.0"):
            os.environ[name] = str(free_port())


def is_free(port: int, host: str) -> bool:
    """Whether a service could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
