"""Every option of the model at once, through the stages as users run them: what is served is what was trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convcg.bundle import Bundle
from convcg.data.encode import PinEncoder
from convcg.data.prepared import Prepared
from convcg.graph.vectors import GraphVectors, completed
from convcg.model.two_tower import ModelConfig, TwoTower
from convcg.retriever.retriever import Retriever
from convcg.storage import locate
from convcg.types import Request, Surface
from ray_jobs import graph, index, prepare, train

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SETS = [
    "graph={kind: spectral, dim: 12}",
    "features.pin=[{name: pin_id, kind: id, hashed_rows: 64, dropout: 0.2}, {name: price, kind: number, log: true}, "
    "{name: advertiser_id, kind: category, dropout: 0.1}, {name: visual, kind: vector}, {name: graph, kind: graph}]",
    "model.inputs=concat",
    "model.feature_dim=8",
    "model.query_tower={kind: parallel, hidden: [32]}",
    "model.pin_tower={kind: sequential_matched, hidden: [32], cross_rank: 4}",
    "model.history={kind: transformer, width: 16}",
    "model.history_gain=true",
    "model.heads=multi",
    "model.task_token=true",
    "model.context_dropout=0.2",
    "model.prefixes=[8]",
    "train.max_failures=0",
]


def arguments(workdir: Path, *more: str) -> list[str]:
    sets = [argument for text in (*SETS, *more) for argument in ("--set", text)]
    return ["--recipe", "smoke", "--workdir", str(workdir), *sets]


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("options")
    for stage in (prepare, graph, train, index):
        assert stage.main(arguments(workdir)) == 0
    return workdir


def towers_of(workdir: Path, bundle: Bundle) -> tuple[TwoTower, PinEncoder]:
    data, vectors = Prepared.open(locate(workdir / "prepared")), GraphVectors.read(locate(workdir / "graph.arrow"))
    assert vectors is not None
    shapes = completed(data.encoders().shapes, vectors)
    towers = TwoTower(ModelConfig.model_validate(bundle.manifest.config["model"]), shapes).eval()
    for name in ("pin", "query"):
        getattr(towers, name).load_state_dict(bundle.weights(name))
    return towers, PinEncoder(data.pins(), shapes.pin, None, np.array(vectors.vector_Nd))


def served(bundle: Bundle) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([bundle.shard_vectors(shard) for shard in range(2)]))


def test_the_bundle_holds_what_the_trained_towers_make_of_the_pins(finished: Path) -> None:
    bundle = Bundle.open(str(finished / "bundle"))
    towers, pins = towers_of(finished, bundle)
    with torch.no_grad():
        inputs = towers.pin.inputs(pins.all())
        seen, embedding = towers.pin.seen(inputs, torch.arange(len(inputs))), towers.pin(inputs)
    assert bundle.pin_inputs().shape == (300, 5 * 8)
    torch.testing.assert_close(torch.from_numpy(bundle.pin_inputs().copy()), seen)
    assert not torch.allclose(seen, inputs)
    torch.testing.assert_close(served(bundle), embedding)


def test_a_prefix_of_the_embeddings_can_be_served_without_training_again(finished: Path) -> None:
    whole = served(Bundle.open(str(finished / "bundle")))
    before = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    assert index.main(arguments(finished, "index.dim=8")) == 0
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == before
    bundle = Bundle.open(str(finished / "bundle"))
    torch.testing.assert_close(served(bundle), F.normalize(whole[:, :8], dim=1))
    user = bundle.users.ids[0].as_py()
    [answer] = Retriever.open(bundle).retrieve([Request(surface=Surface.HOME_FEED, user_id=user, k=20)])
    assert len(answer.candidates) == 20
    assert index.main(arguments(finished)) == 0
    torch.testing.assert_close(served(Bundle.open(str(finished / "bundle"))), whole, rtol=0, atol=0)


def test_a_width_that_was_not_trained_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Bundle.open(str(finished / "bundle")).model_version
    assert index.main(arguments(finished, "index.dim=9")) == 1
    assert "index.dim = 9 is none of the widths that the model is trained for (8, 16)" in capsys.readouterr().err
    assert Bundle.open(str(finished / "bundle")).model_version == before
