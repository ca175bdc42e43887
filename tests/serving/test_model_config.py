from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from leanloop.core.contracts import ServingChoice
from leanloop.core.errors import ServingError
from leanloop.serving import CaptureChoice, ModelConfig, ModelSpec, TensorSpec

NAMES = st.from_regex(r"\A[A-Za-z][A-Za-z0-9_-]{0,20}\Z")
TENSORS = st.builds(
    TensorSpec,
    name=NAMES,
    shape=st.lists(st.sampled_from([-1, 1, 3, 224]), max_size=4).map(tuple),
    dtype=st.sampled_from(["float32", "int64", "uint8"]),
)
CONFIGS = st.builds(
    ModelConfig,
    spec=st.builds(
        ModelSpec,
        name=NAMES,
        inputs=st.lists(TENSORS, min_size=1, max_size=3, unique_by=lambda tensor: tensor.name).map(tuple),
        outputs=st.lists(TENSORS, min_size=1, max_size=3).map(tuple),
    ),
    versions=st.sets(st.integers(1, 10**6), min_size=1).map(lambda versions: tuple(sorted(versions))),
    choice=st.builds(
        ServingChoice,
        instances=st.integers(1, 64),
        threads=st.integers(1, 64),
        max_batch_size=st.integers(1, 4096),
        queue_delay_us=st.integers(0, 10**6),
        preferred_batch_sizes=st.lists(st.integers(1, 4096), max_size=3).map(tuple),
    ),
    capture=st.none()
    | st.builds(CaptureChoice, folder=st.text(), rate=st.floats(0.001, 1), quota_bytes=st.integers(1, 1 << 40)),
)


def test_rendered_text():
    config = ModelConfig(
        spec=ModelSpec(
            name="m",
            inputs=(TensorSpec(name="image", shape=(2, 3), dtype="uint8"),),
            outputs=(TensorSpec(name="score", shape=()),),
        ),
        versions=(1, 4),
        choice=ServingChoice(instances=2, threads=3, max_batch_size=1, queue_delay_us=500),
    )
    assert config.render() == dedent(
        """\
        name: "m"
        version_policy {
          specific {
            versions: 1
            versions: 4
          }
        }
        max_batch_size: 1
        input {
          name: "image"
          data_type: TYPE_UINT8
          dims: 2
          dims: 3
        }
        output {
          name: "score"
          data_type: TYPE_FP32
          dims: 1
          reshape {
          }
        }
        instance_group {
          count: 2
          kind: KIND_CPU
        }
        dynamic_batching {
          max_queue_delay_microseconds: 500
        }
        parameters {
          key: "threads"
          value {
            string_value: "3"
          }
        }
        model_warmup {
          name: "batch_1"
          batch_size: 1
          inputs {
            key: "image"
            value {
              data_type: TYPE_UINT8
              dims: 2
              dims: 3
              zero_data: true
            }
          }
        }
        backend: "python"
        """
    )


@settings(max_examples=30, deadline=None)
@given(config=CONFIGS)
def test_what_is_saved_is_loaded(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("config")
    config.save(folder)
    assert ModelConfig.load(folder) == config


@pytest.mark.parametrize("text", ["", "name: 'm'", "no protobuf {", "name: '../m' max_batch_size: 1"])
def test_a_foreign_file_is_refused(tmp_path: Path, text: str):
    (tmp_path / "config.pbtxt").write_text(text)
    with pytest.raises(ServingError, match="cannot be read"):
        ModelConfig.load(tmp_path)


@pytest.mark.parametrize("name", ["", "1m", "../m", "a/b", "m\n", "m" * 65])
def test_names_are_checked(name: str):
    with pytest.raises(ValidationError):
        ModelSpec(
            name=name,
            inputs=(TensorSpec(name="x", shape=(1,)),),
            outputs=(TensorSpec(name="y", shape=(1,)),),
        )
