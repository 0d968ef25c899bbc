"""Chooses torch's device and checks its memory against a quantization's peak.

The peak follows from the model's shape.
Measured on a CPU with 1.2 billion parameters: 4.0 GB resident during the export, 2.5 GB of them the
mapped source. Without gradients nothing else is as large as the model.
"""

from __future__ import annotations

import math

import torch
from checkpoints.layout import linear_shapes
from engines.engine_json import available_bytes
from host.console import BuildError

from quantization.source_model import SourceModel

DEVICES = ("auto", "cpu", "cuda")
RUNTIME_BYTES = 600_000_000  # Python with torch, transformers and modelopt
EXPORT_BYTES = 32  # for each number of the largest linear while modelopt packs it
PACKED_BYTES = 9 / 16  # for each number of a packed linear: four bits, and a scale for sixteen
TOKENS_AT_ONCE = 4096  # in a perplexity, with padding: a layer is loaded once for so many
ROUNDING_VALUES = 10  # f32 numbers in memory for each activation that is rounded


def memory_needed(source: SourceModel) -> int:
    """Bytes of the device's memory at the peak of a quantization."""
    return RUNTIME_BYTES + max(_exporting(source), _measuring(source))


def _exporting(source: SourceModel) -> int:
    """The BF16 model and what is packed already. Calibration takes less."""
    sizes = [math.prod(shape) for shape in linear_shapes(source.config).values()]
    packed = int(source.config.num_hidden_layers * sum(sizes) * PACKED_BYTES)
    return source.data_bytes + packed + max(sizes) * EXPORT_BYTES


def _measuring(source: SourceModel) -> int:
    """Embedding, head and one layer in f32, and the activations of some texts."""
    config = source.config
    ends = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    sizes = [math.prod(shape) for shape in linear_shapes(config).values()]
    activations = TOKENS_AT_ONCE * config.intermediate_size * ROUNDING_VALUES
    return 4 * (ends + sum(sizes) + max(sizes) + activations)


def pick_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one; raises `BuildError` for a device that is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise BuildError(
            f"--device is cuda, torch {torch.__version__} sees no CUDA GPU; give --device cpu, or "
            "look at 'nvidia-smi' and at which torch is installed"
        )
    return torch.device(name)


def check_memory(device: torch.device, needed: int, purpose: str) -> None:
    """Raise `BuildError` unless `needed` bytes of the device's memory are free."""
    if device.type == "cuda":
        free, place = int(torch.cuda.mem_get_info(device)[0]), torch.cuda.get_device_name(device)
    else:
        free, place = available_bytes(), "this machine"
    if needed > free:
        raise BuildError(
            f"{purpose} needs {needed / 1e9:.1f} GB of memory and {place} has {free / 1e9:.1f} GB "
            "free; free memory, or quantize on a machine or GPU that has more"
        )
