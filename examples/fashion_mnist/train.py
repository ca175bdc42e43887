r"""Train one of the two Fashion-MNIST models, and save the weights that do best on validation.

The learning rate runs one cycle, then stays at the cycle's last value until validation has stopped improving.

    .venv/bin/python examples/fashion_mnist/train.py --model residual_cnn \
        --root .tools/debian/usr/share/datasets/fashion-mnist --out examples/fashion_mnist/residual_cnn.safetensors

Beside the weights goes a JSON file with what made them and how well they do.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import time
from pathlib import Path

import data
import model
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import TensorDataset


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one model is trained: SGD with Nesterov momentum on a one-cycle learning rate.

    The cycle takes `cycle_epochs` and ends at a hundredth of `learning_rate`. Training goes on at that rate until
    `patience` epochs in a row have brought nothing better on validation.
    """

    cycle_epochs: int
    learning_rate: float
    weight_decay: float
    shift: int
    batch_size: int = 128
    label_smoothing: float = 0.05
    patience: int = 4


RECIPES = {
    "residual_cnn": Recipe(cycle_epochs=12, learning_rate=0.1, weight_decay=5e-4, shift=2),
    "mlp": Recipe(cycle_epochs=15, learning_rate=0.05, weight_decay=1e-4, shift=0),
}


def augment(images: Tensor, shift: int) -> Tensor:
    """Mirror half of the images and move each by up to `shift` pixels: [N, 1, 28, 28] to the same."""
    count, size = len(images), images.shape[-1]
    rows = torch.arange(size) + torch.randint(0, 2 * shift + 1, (count, 1))
    columns = torch.arange(size) + torch.randint(0, 2 * shift + 1, (count, 1))
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    black = -data.MEAN / data.STD
    padded = functional.pad(images, (shift,) * 4, value=black)
    return padded[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


@torch.inference_mode()
def accuracy(network: nn.Module, dataset: TensorDataset) -> float:
    """Share of the images whose largest logit is the label's, in float32."""
    network.eval()
    images, labels = dataset.tensors
    predicted = torch.cat([network(batch).argmax(1) for batch in images.split(1_000)])
    return (predicted == labels).double().mean().item()


def train(network: nn.Module, recipe: Recipe, root: Path) -> tuple[dict[str, Tensor], int]:
    """Train in place; return the weights that did best on validation, and their epoch (from 1)."""
    images, labels = data.load("train", root).tensors
    validation = data.load("validation", root)
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    cycle_steps = recipe.cycle_epochs * steps_per_epoch
    cycle = OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=cycle_steps, pct_start=0.2, div_factor=25, final_div_factor=4
    )
    best, best_weights, best_epoch, epoch = 0.0, copy.deepcopy(network.state_dict()), 0, 0
    while epoch < max(recipe.cycle_epochs, best_epoch) + recipe.patience:
        epoch += 1
        started, total_loss = time.perf_counter(), 0.0
        network.train()
        for indices in torch.randperm(len(images)).split(recipe.batch_size):
            batch = augment(images[indices], recipe.shift).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(batch)
            loss = functional.cross_entropy(logits.float(), labels[indices], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if cycle.last_epoch < cycle_steps - 1:
                cycle.step()
            total_loss += loss.item()
        reached = accuracy(network, validation)
        print(
            f"epoch {epoch:3d}  loss {total_loss / steps_per_epoch:.4f}  "
            f"validation {reached:.4f}  {time.perf_counter() - started:.1f} s",
            flush=True,
        )
        if reached > best:
            best, best_weights, best_epoch = reached, copy.deepcopy(network.state_dict()), epoch
    return best_weights, best_epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=RECIPES, required=True)
    parser.add_argument("--root", type=Path, required=True, help="folder of the four *-ubyte.gz files")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    recipe = RECIPES[arguments.model]
    network: nn.Module = getattr(model, arguments.model)().to(memory_format=torch.channels_last)
    weights, best_epoch = train(network, recipe, arguments.root)

    network.load_state_dict(weights)
    record = {
        "model": arguments.model,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seed": arguments.seed,
        "best_epoch": best_epoch,
        "validation_accuracy": accuracy(network, data.load("validation", arguments.root)),
        "test_accuracy": accuracy(network, data.load("test", arguments.root)),
        "recipe": dataclasses.asdict(recipe),
        "torch": torch.__version__,
    }
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_atomically(arguments.out, save(contiguous))
    write_atomically(arguments.out.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    print(json.dumps(record, indent=2))


def write_atomically(file: Path, content: bytes) -> None:
    """Leave either the old file or the whole new one, whatever happens meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)


if __name__ == "__main__":
    main()
