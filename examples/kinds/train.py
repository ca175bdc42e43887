"""Train the networks of ``model.py``, each in seconds, and save them beside this file.

    .venv/bin/python examples/kinds/train.py                # all
    .venv/bin/python examples/kinds/train.py recurrent      # this one

Then ``leanloop run --params examples/kinds/recurrent.yaml``. Weights are not shipped: making them takes seconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

sys.path.append(str(Path(__file__).parents[1] / "digits"))
import data
import features
import model

HERE = Path(__file__).parent

MODELS = {
    "depthwise": data.load,
    "vision_transformer": data.load,
    "recurrent": data.load,
    "linear": features.load,
    "wide": features.load,
}
"""Factory -> its data."""

EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 40, 50, 5e-3, 1e-2


def train(network: nn.Module, dataset: TensorDataset) -> None:
    """Train in place: AdamW on one cycle."""
    inputs, labels = dataset.tensors
    steps = EPOCHS * -(-len(inputs) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    network.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(BATCH_SIZE):
            loss = functional.cross_entropy(network(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


@torch.inference_mode()
def accuracy(network: nn.Module, dataset: TensorDataset) -> float:
    """Share of the samples whose largest logit is the label's."""
    inputs, labels = dataset.tensors
    return (network(inputs).argmax(1) == labels).double().mean().item()


def make(name: str, file: Path) -> float:
    """Train one network and save it; returns its accuracy on ``test``."""
    torch.set_num_threads(1)  # layers this small are done before a second thread has begun
    torch.manual_seed(0)
    network, load = getattr(model, name)(), MODELS[name]
    train(network, load("train", HERE))
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_bytes(save(network.state_dict()))
    unfinished.replace(file)
    return accuracy(network, load("test", HERE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--out", type=Path, default=HERE, help="folder, instead of this file's")
    arguments = parser.parse_args()
    names = arguments.models
    if unknown := sorted(set(names) - set(MODELS)):
        parser.error(f"there is no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    for name in names:
        print(f"{name}: test accuracy {100 * make(name, arguments.out / f'{name}.safetensors'):.1f} %", flush=True)


if __name__ == "__main__":
    main()
