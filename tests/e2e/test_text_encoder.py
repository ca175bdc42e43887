"""The transformer text encoder: fetched as its example says, and made faster without any training."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from leanloop.core.contracts import Artifacts, Benchmark
from leanloop.core.settings import load_settings
from leanloop.core.workspace import with_absolute_paths
from leanloop.pipelines.offline import run_offline

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/text_encoder"
FILES = ROOT / ".tools/text-encoder"

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def fetched() -> None:
    subprocess.run([sys.executable, EXAMPLE / "fetch.py"], check=True)


def module(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE / f"{name}.py")))


def test_words_become_the_published_ids() -> None:
    data = module("data")
    vocabulary = data.read_vocabulary(FILES / "vocab.txt")
    ids = data.encode("The cat sits on the mat", vocabulary)
    assert ids[:9] == [101, 1996, 4937, 7719, 2006, 1996, 13523, 102, 0]
    assert len(ids) == data.TOKENS
    assert data.pieces_of("unbelievably", vocabulary) == ["un", "##bel", "##ie", "##va", "##bly"]


def test_vectors_tell_what_sentences_are_about() -> None:
    data, encoder = module("data"), module("model").sentence_encoder()
    encoder.load_state_dict(load_file(FILES / "encoder.safetensors"))
    encoder.eval()
    vocabulary = data.read_vocabulary(FILES / "vocab.txt")
    texts = ["the cat sits on the mat", "a kitten is resting on a rug", "the stock market fell sharply today"]
    ids = torch.tensor([data.encode(text, vocabulary) for text in texts])
    with torch.inference_mode():
        cats, kittens, stocks = encoder(ids, (ids != 0).long())
    assert cats @ kittens > 0.6
    assert cats @ stocks < 0.2
    assert torch.linalg.norm(cats) == pytest.approx(1.0, abs=1e-5)


def test_post_training_techniques_keep_the_direction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANLOOP_EVENTS", "")  # `run_offline` sets it; it must not outlive the test
    overrides = {"workspace": str(tmp_path / "workspace"), "optimize.budget_minutes": 1.0, "benchmark.blocks": 4}
    settings = with_absolute_paths(load_settings(EXAMPLE / "params.yaml", overrides), EXAMPLE)
    run_offline(settings.to_json(), str(EXAMPLE), str(tmp_path), str(tmp_path / "events.jsonl"))
    benchmark, artifacts = Benchmark.load(tmp_path / "benchmark"), Artifacts.load(tmp_path / "artifacts")
    assert benchmark.original.metric == pytest.approx(1.0, abs=1e-5)
    made = {variant.id: variant for variant in benchmark.variants if not variant.baseline}
    kept = [variant for variant in made.values() if variant.metric >= 0.99]
    assert min(variant.size_bytes for variant in kept) < 0.5 * benchmark.original_size_bytes
    complete = [row for row in artifacts.trials if row.state == "complete"]
    assert {config["technique"] for row in complete for config in row.recipe.techniques} >= {
        "ort_dynamic_int8",
        "nncf_int8",
    }
