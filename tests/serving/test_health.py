from __future__ import annotations

import psutil
import pytest

from leanloop.core.errors import ServingError
from leanloop.serving import ModelConfig, ModelRepository, Ports, TritonClient, TritonServer, check_health
from tests.serving.conftest import CHOICE, linear_spec


def test_a_dead_model_process_is_found(home, models, tmp_path):
    repository, spec = ModelRepository(tmp_path / "models"), linear_spec("m")
    repository.place(spec, models.linear(1.0), 1)
    ModelConfig(spec=spec, versions=(1,), choice=CHOICE).save(repository.folder("m"))
    with (
        TritonServer(home, repository.root, Ports.free(), tmp_path) as server,
        TritonClient(server.http_url, server.grpc_url) as client,
    ):
        client.load("m")
        assert [one.answers for one in check_health(client, repository)] == [True]
        stubs = [child for child in psutil.Process(server.id.pid).children(recursive=True) if "stub" in child.name()]
        assert stubs
        for stub in stubs:
            stub.kill()
        assert [line.state for line in client.index()] == ["READY"]
        (dead,) = check_health(client, repository)
        assert not dead.answers
        assert dead.problem


def test_a_version_that_failed_to_load_is_named(triton, models, new_name):
    spec = linear_spec(new_name())
    with pytest.raises(ServingError):
        triton.serve(spec, models.broken())
    failed = [one for one in check_health(triton.client, triton.repository) if one.model == spec.name]
    assert [one.answers for one in failed] == [False]
    assert "InvalidProtobuf" in failed[0].problem
