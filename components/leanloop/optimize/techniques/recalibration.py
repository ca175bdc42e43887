"""Batch norms seen anew: after channels or blocks are gone, the means and variances of before describe another network.

A batch norm in use computes ``(x - mean) / sqrt(var + eps) * weight + bias``, with the running ``mean`` and ``var`` of
the trained network. What is left of a pruned one gives other activations, so each layer's output is off by a scale and
an offset that nobody meant. Averages over some samples, without any training, take that out: what is scored or trained
next starts from there.

Source: Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from leanloop.bundle import Bundle, tensors

_SAMPLES, _BATCH = 512, 128


def recalibrate(module: nn.Module, bundle: Bundle) -> None:
    """Replace the running statistics of all batch norms by averages over calibration samples, in place.

    Weights stay, and so does the mode of every layer; a network without batch norms is left alone.

    Args:
        module: In eval mode.
        bundle: Holds the samples.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    samples = bundle.split("calibration").take(slice(0, _SAMPLES))
    if not norms or len(samples) < 2:
        return
    momenta = [layer.momentum for layer in norms]
    try:
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # the plain average over all batches
            layer.train()
        with torch.no_grad():
            # Of one size, since each counts alike in the average, and a small one knows little of the spread.
            for rows in np.array_split(np.arange(len(samples)), math.ceil(len(samples) / _BATCH)):
                module(*tensors(samples.take(rows).inputs))
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
