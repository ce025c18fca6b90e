"""The graph stage as users run it: through `main(argv)`, from prepared data to a file of vectors."""

from pathlib import Path

import numpy as np
import pytest

from convcg.data.prepared import Prepared
from convcg.graph.vectors import GraphVectors
from convcg.storage import locate
from ray_jobs import graph, prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def workdir(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("graph")
    assert prepare.main(["--recipe", "smoke", "--workdir", str(directory)]) == 0
    return directory


def vectors_of(workdir: Path, *overrides: str) -> GraphVectors | None:
    settings = [argument for override in overrides for argument in ("--set", override)]
    assert graph.main(["--recipe", "smoke", "--workdir", str(workdir), *settings]) == 0
    data = Prepared.open(locate(workdir / "prepared"))
    return GraphVectors.read(locate(workdir / "graph.arrow"), num_pins=len(data.pins()))


def test_no_kind_leaves_no_vectors(workdir: Path) -> None:
    assert vectors_of(workdir, "graph.kind=none") is None


def test_every_pin_with_content_has_a_vector_and_its_degree(workdir: Path) -> None:
    vectors = vectors_of(workdir, "graph.kind=spectral", "graph.dim=8")
    assert vectors is not None
    assert vectors.dim == 8
    assert np.linalg.norm(vectors.vector_Nd, axis=1).min() > 0
    people: dict[int, set[tuple[int, int]]] = {}
    for partition, table in enumerate(Prepared(locate(workdir / "prepared")).interactions()):
        for user, pin in zip(table["user"].to_pylist(), table["pin"].to_pylist(), strict=True):
            people.setdefault(pin, set()).add((partition, user))
    assert vectors.degree_N.tolist() == [len(people.get(pin, ())) for pin in range(len(vectors.degree_N))]


def test_a_missing_prepare_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert graph.main(["--recipe", "smoke", "--workdir", str(tmp_path), "--set", "graph.kind=spectral"]) == 1
    assert "Run the prepare stage first" in capsys.readouterr().err
