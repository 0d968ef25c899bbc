"""An NVFP4 checkpoint as NVIDIA Model Optimizer writes it: mapped, checked against its config.

A linear layer [out, in] is stored as `weight` u8 [out, in/2] (two e2m1 values a byte, the even
column in the low nibble), `weight_scale` e4m3 [out, in/16], `weight_scale_2` f32 scalar:

    w[o, i] = e2m1(nibble) * float(weight_scale[o, i // 16]) * weight_scale_2
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_console import BuildError
from checkpoint_layout import BLOCK as BLOCK
from checkpoint_layout import check_forward_tensors
from checkpoint_layout import expected_tensors as expected_tensors
from checkpoint_layout import linear_shapes as linear_shapes
from llama_config import LlamaConfig, load_llama_config, read_json
from safetensors_file import DTYPE_BYTES as DTYPE_BYTES
from safetensors_file import Bytes as Bytes
from safetensors_file import StoredTensor as StoredTensor
from safetensors_file import read_shards


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint: every tensor that `config` calls for, with its dtype and shape."""

    directory: Path
    config: LlamaConfig
    tensors: dict[str, StoredTensor]

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.data.size for tensor in self.tensors.values())


def open_checkpoint(directory: Path) -> Checkpoint:
    """Map the checkpoint and check what its weights' arithmetic needs.

    Raises `BuildError` naming file or tensor and the remedy. The values are not read, but for the
    scalars: `checkpoint_values.check_values` does that.
    """
    if not directory.is_dir():
        raise BuildError(
            f"{directory} is no directory; give --checkpoint a folder with an NVFP4 checkpoint"
        )
    config = load_llama_config(directory)
    check_quantization(directory)
    tensors = read_shards(directory)
    check_forward_tensors(directory, config, tensors)
    return Checkpoint(directory, config, tensors)


def check_quantization(directory: Path) -> None:
    """`hf_quant_config.json` is authoritative; the copy inside `config.json` stands in for it."""
    path = directory / "hf_quant_config.json"
    if path.exists():
        facts = _object(read_json(path), "quantization")
        group_size = facts.get("group_size", BLOCK)
    else:
        path = directory / "config.json"
        facts = _object(read_json(path), "quantization_config")
        groups = _object(facts, "config_groups")
        first = _object(groups, next(iter(groups), ""))
        group_size = _object(first, "weights").get("group_size", BLOCK)
    algorithm = facts.get("quant_algo")
    if algorithm != "NVFP4" or group_size != BLOCK:
        raise BuildError(
            f"{path}: quant_algo is {algorithm!r} with group_size {group_size!r}, "
            f"allowed is 'NVFP4' with {BLOCK}; quantize the model with build/quantize.py"
        )


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}
