"""The Ray Serve application: `build` for `serve deploy` (`import_path: serve_app.app:build`) and for `convcg serve`."""

from typing import Any

from pydantic import Field
from ray import serve
from ray.serve import Application

from convcg.bundle import read_manifest
from convcg.channel import current_bundle, is_channel
from convcg.config import override
from convcg.errors import ConfigError
from convcg.serving import ServeConfig, Topology
from convcg.setting import Settings
from convcg.storage import locate
from serve_app.deployments import EncoderService, FusedService, Release, RouterService, ShardService

#: The parts of a bundle's config that say how it is served; the others say how it was made.
_SERVED_PARTS = ("serve", "retrieval")
#: One thread a replica: more of them would fight for the cores that Ray has dealt out. Libraries read these at import.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class ServeArguments(Settings):
    """What is served: a bundle, or a channel and so its current bundle; `sets` override its config (`a.b=c`)."""

    bundle: str = Field(min_length=1)
    sets: tuple[str, ...] = ()


def release_of(arguments: ServeArguments) -> Release:
    """Resolve the arguments, reading the bundle's manifest alone.

    Raises:
        BundleError, StorageError: there is no complete bundle.
        ConfigError: an override that is unknown, invalid, or about how the bundle was made.
    """
    location = locate(arguments.bundle)
    bundle = current_bundle(location) if is_channel(location) else location
    manifest = read_manifest(bundle)
    for text in arguments.sets:
        part = text.partition("=")[0].strip().partition(".")[0]
        if part not in _SERVED_PARTS:
            raise ConfigError(
                f"--set {text}: {part!r} is settled in the bundle; only {' and '.join(_SERVED_PARTS)} settings can be "
                "set when serving. Build another bundle."
            )
    config = override(dict(manifest.config), arguments.sets, source=bundle.uri)
    return Release(
        uri=bundle.uri,
        model_version=manifest.model_version,
        num_shards=len(manifest.shards),
        retrieval=config.retrieval,
        serve=config.serve,
    )


def build(arguments: ServeArguments) -> Application:
    """The application. Ray Serve parses its typed argument from the `args` of a config file."""
    return build_release(release_of(arguments))


def build_release(release: Release) -> Application:
    """The application of a release, in the topology that its config asks for."""
    if release.serve.topology is Topology.FUSED:
        return _ingress(FusedService, release.serve).bind(release)
    encoder = _deployment(EncoderService, release.serve, name="Encoder").bind(release)
    shards = [
        _deployment(ShardService, release.serve, name=f"Shard{shard}").bind(release, shard)
        for shard in range(release.num_shards)
    ]
    return _ingress(RouterService, release.serve).bind(release, encoder, shards)


def logical_cpus(release: Release) -> float:
    """What all replicas of a release reserve at most."""
    deployments = 1 if release.serve.topology is Topology.FUSED else 2 + release.num_shards
    return deployments * release.serve.max_replicas * release.serve.cpus_per_replica


def _ingress(service: type, config: ServeConfig) -> Any:
    overload = {"status_code": 503, "retry_after_s": 1}
    return _deployment(serve.ingress()(service), config, name="Ingress").options(
        max_queued_requests=config.max_queued_requests, backpressure_config=overload
    )


def _deployment(service: type, config: ServeConfig, *, name: str) -> Any:
    if config.max_replicas > config.min_replicas:
        replicas: dict[str, Any] = {
            "autoscaling_config": {
                "min_replicas": config.min_replicas,
                "max_replicas": config.max_replicas,
                "target_ongoing_requests": config.target_ongoing_requests,
            }
        }
    else:
        replicas = {"num_replicas": config.min_replicas}
    return serve.deployment(service).options(
        name=name,
        max_ongoing_requests=config.max_ongoing_requests,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "runtime_env": {"env_vars": _ONE_THREAD}},
        # A new replica is there before the old one goes: replacing the only replica leaves no gap.
        max_surge_percent=100,
        max_constructor_retry_count=2,
        logging_config={"enable_access_log": False},
        **replicas,
    )
