from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from leanloop.core.errors import ServingError
from leanloop.pipelines.cli import app
from leanloop.pipelines.cli.common import console
from tests.serving.conftest import QUERIES, deploy, linear_spec

ROOT = Path(__file__).parents[2]


@pytest.fixture
def leanloop(triton, new_name, tmp_path, monkeypatch):
    """The command line, with a workspace whose Triton is the shared one."""
    monkeypatch.setattr(console, "_width", 200)
    document = yaml.safe_load((ROOT / "examples/digits/params.yaml").read_text())
    document["workspace"] = str(triton.repository.root.parents[1])
    document["model"]["name"] = new_name()
    document["serving"] |= {
        "http_url": triton.server.http_url,
        "grpc_url": triton.server.grpc_url,
        "metrics_url": triton.server.metrics_url,
        "max_batch_size": 8,
    }
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(document))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "-p", str(params)])
        if isinstance(result.exception, ServingError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    run.model = document["model"]["name"]
    return run


def test_history_rollback_and_promote(leanloop, triton, models):
    spec = linear_spec(leanloop.model)
    original = models.linear(1.0)
    assert "Nothing was rolled out yet" in leanloop("history", "--model", spec.name)
    for scale, bake in ((2.0, None), (3.0, timedelta(hours=1))):
        deploy(triton.client, triton.repository, spec, [original, models.linear(scale)], bake=bake)
    assert "Version 2" in leanloop("rollback", "--reason", "the queue grows")
    assert triton.client.answer(spec.name, {"x": QUERIES}).version == 2
    assert "Version 1" in leanloop("rollback", "--to", "1")
    assert "Version 3" in leanloop("promote", "3")
    assert triton.client.answer(spec.name, {"x": QUERIES}).version == 3
    with pytest.raises(ServingError, match="no such version"):
        leanloop("promote", "9")
    with pytest.raises(ServingError, match="No such model is served"):
        leanloop("rollback", "--model", "nobody")

    lines = [line.split() for line in leanloop("history", "--model", spec.name).splitlines()]
    assert [(line[1], line[2]) for line in lines[1:]] == [("1", "2"), ("2", "3"), ("3", "3")]
    assert "the queue grows" in " ".join(lines[2])
    assert "rolled back" in " ".join(lines[1])
    assert "baked" in lines[3]
