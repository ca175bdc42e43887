"""Train the digits network until validation stops improving, and save the weights that do best on it (a minute).

    .venv/bin/python examples/digits/train.py --out examples/digits/digits.safetensors

Beside the weights goes a JSON file with what made them and how well they do.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import data
import torch
from model import digits_net
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

EPOCHS, PATIENCE, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 80, 25, 50, 2e-3, 1e-2
NOWHERE = Path()
"""The data come with scikit-learn, so they need no folder."""


def shifted(images: Tensor) -> Tensor:
    """Move the whole batch by up to one pixel each way: [N, 1, 8, 8] to the same."""
    row, column = torch.randint(0, 3, (2,)).tolist()
    return functional.pad(images, (1, 1, 1, 1))[:, :, row : row + 8, column : column + 8]


@torch.inference_mode()
def accuracy(network: nn.Module, dataset: TensorDataset) -> float:
    """Share of the images whose largest logit is the label's."""
    network.eval()
    images, labels = dataset.tensors
    return (network(images).argmax(1) == labels).double().mean().item()


def train(network: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Train in place; return the weights that did best on validation, and their epoch (from 1)."""
    images, labels = data.load("train", NOWHERE).tensors
    validation = data.load("validation", NOWHERE)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    best, best_weights, best_epoch = 0.0, copy.deepcopy(network.state_dict()), 0
    for epoch in range(1, EPOCHS + 1):
        network.train()
        for indices in torch.randperm(len(images)).split(BATCH_SIZE):
            loss = functional.cross_entropy(network(shifted(images[indices])), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        reached = accuracy(network, validation)
        print(f"epoch {epoch:3d}/{EPOCHS}  loss {loss.item():.4f}  validation {reached:.4f}", flush=True)
        if reached > best:
            best, best_weights, best_epoch = reached, copy.deepcopy(network.state_dict()), epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    return best_weights, best_epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    network = digits_net()
    weights, best_epoch = train(network)

    network.load_state_dict(weights)
    record = {
        "model": "digits_net",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seed": arguments.seed,
        "best_epoch": best_epoch,
        "validation_accuracy": accuracy(network, data.load("validation", NOWHERE)),
        "test_accuracy": accuracy(network, data.load("test", NOWHERE)),
        "torch": torch.__version__,
    }
    write_atomically(arguments.out, save(weights))
    write_atomically(arguments.out.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    print(json.dumps(record, indent=2))


def write_atomically(file: Path, content: bytes) -> None:
    """Leave either the old file or the whole new one, whatever happens meanwhile."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)


if __name__ == "__main__":
    main()
