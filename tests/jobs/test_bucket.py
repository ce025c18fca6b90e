"""A whole run whose working directory is a bucket."""

from pathlib import Path

import pytest
from buckets import bucket
from processes import start

from convcg.bundle import Bundle
from convcg.channel import current_bundle
from convcg.storage import locate

pytestmark = pytest.mark.slow


def test_pipeline_runs_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "output.txt"
    with bucket() as key:
        workdir = key.replace("KEY", "runs/smoke")
        arguments = ["pipeline", "--recipe", "smoke", "--workdir", workdir]
        assert start(*arguments, output=output).wait(timeout=300) == 0, output.read_text()
        published = current_bundle(locate(workdir) / "channel")
        assert len(Bundle.open(published.uri, cache=tmp_path / "cache").pins) == 300
        assert start(*arguments, output=output).wait(timeout=120) == 0, output.read_text()
        assert "publish: skipped" in output.read_text()
