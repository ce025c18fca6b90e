"""What the candidate service is asked to be. `serve_app` builds it; a bundle carries it."""

from enum import StrEnum

from pydantic import Field, model_validator

from convcg.setting import Settings


class Topology(StrEnum):
    """Where the parts of the retriever run."""

    FUSED = "fused"  # encoder and every shard in each replica: one hop, scale by replicas
    SPLIT = "split"  # encoder and each shard are deployments of their own: for an index that one replica cannot hold


class ServeConfig(Settings):
    """The service. Replicas are those of each deployment: one deployment when fused, 2 + shards when split."""

    topology: Topology = Topology.FUSED
    #: Where the service listens; 0.0.0.0 for every network interface.
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65_535)
    min_replicas: int = Field(default=1, ge=1)
    #: Above `min_replicas` the service scales by load: towards `target_ongoing_requests` in each replica.
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=8.0, gt=0)
    #: Logical CPUs that each replica reserves. A replica computes in one thread.
    cpus_per_replica: float = Field(default=0.5, ge=0)
    #: Requests that one replica works on at once, and that may wait for it before new ones get 503.
    max_ongoing_requests: int = Field(default=64, ge=1)
    max_queued_requests: int = Field(default=256, ge=1)
    #: How many requests are computed together at most.
    max_batch_size: int = Field(default=32, ge=1)
    #: Split topology: how long the encoder and the shards wait for more requests before they compute. At 0 those are
    #: computed together that came while the last batch was; waiting pays on a GPU, where a batch costs little more.
    batch_wait_seconds: float = Field(default=0.0, ge=0)
    request_timeout_seconds: float = Field(default=5.0, gt=0)
    #: How often a channel is asked for a newer bundle.
    refresh_seconds: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _replicas_in_order(self) -> "ServeConfig":
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas = {self.min_replicas} is above max_replicas = {self.max_replicas}; raise max_replicas"
            )
        return self
