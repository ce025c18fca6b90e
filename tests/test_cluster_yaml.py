"""cluster.yaml: valid by Ray's own schema, offline, and keeps what the comments in it promise."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from serve_app.environment import SERVE_ENVIRONMENT

CLUSTER = Path(__file__).parents[1] / "cluster.yaml"
ENVIRONMENT = {**SERVE_ENVIRONMENT, "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "2"}


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


def test_rays_own_schema_accepts_it(cluster):
    validate_config(prepare_config(cluster))


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ((), "max_wokers", 3),
        (("available_node_types", "gpu_pool"), "instance", "g6.4xlarge"),
        (("available_node_types", "gpu_pool"), "max_workers", "four"),
        ((), "head_node_type", "no_such_type"),
    ],
)
def test_rays_own_schema_refuses_a_broken_one(cluster, where, key, value):
    part = cluster
    for name in where:
        part = part[name]
    part[key] = value
    with pytest.raises((ValidationError, ValueError)):
        validate_config(prepare_config(cluster))


def test_the_head_runs_no_work_and_the_pools_start_from_nothing(cluster):
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert {pool["min_workers"] for pool in types.values()} == {0}
    assert [name for name, pool in types.items() if pool["resources"].get("GPU")] == ["gpu_pool"]
    assert all(0 < pool["max_workers"] <= cluster["max_workers"] for pool in types.values())


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_the_environment_stands_before_ray_starts_on_every_node(cluster, commands):
    start = next(command for command in cluster[commands] if "ray start" in command)
    environment = start[: start.index("ray start")]
    assert [name for name, value in ENVIRONMENT.items() if f"{name}={value}" not in environment] == []


def test_a_node_installs_one_faiss(cluster):
    gpu_only = cluster["available_node_types"]["gpu_pool"]["worker_setup_commands"]
    assert "[cpu]" in str(cluster["setup_commands"])
    assert "[gpu]" not in str(cluster["setup_commands"])
    assert "[gpu]" in str(gpu_only)
    assert "[cpu]" not in str(gpu_only)
    resolved = prepare_config(cluster)["available_node_types"]
    assert "[cpu]" not in str(resolved["gpu_pool"]["worker_setup_commands"])
