"""What an exported NVFP4 folder is worth beside its BF16 source: weight error and perplexity."""

from __future__ import annotations

from pathlib import Path

import torch
from checkpoints.layout import layer_prefix, linear_shapes
from host.console import Phase

from quantization.perplexity import perplexity
from quantization.report import LinearError
from quantization.source_model import SourceModel
from quantization.stored_weights import StoredWeights


def weight_errors(source: SourceModel, folder: Path, device: torch.device) -> list[LinearError]:
    """Of every quantized linear, computed in f32 on `device`."""
    before, after = StoredWeights(source.directory, device), StoredWeights(folder, device)
    errors: list[LinearError] = []
    linears = list(linear_shapes(source.config))
    with Phase("weight error", source.config.num_hidden_layers, "layer") as phase:
        for layer in range(source.config.num_hidden_layers):
            for linear in linears:
                name = f"{layer_prefix(layer)}{linear}.weight"
                wanted = before.weight(name)
                error = _square_sum(after.weight(name) - wanted)
                errors.append(LinearError(layer, linear, error, _square_sum(wanted)))
            phase.advance(1)
    return errors


def _square_sum(values: torch.Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))


def perplexities(
    source: SourceModel, folder: Path, texts: list[list[int]], device: torch.device
) -> dict[str, float]:
    """Of the source, and of `folder` with and without rounded activations."""
    variants = (
        ("BF16", source.directory, False),
        ("NVFP4 W4A16", folder, False),
        ("NVFP4 W4A4", folder, True),
    )
    return {
        name: perplexity(name, directory, texts, device, activations)
        for name, directory, activations in variants
    }
