"""An NVFP4 checkpoint as NVIDIA Model Optimizer writes it: mapped, checked against its config.

A linear layer [out, in] is stored as `weight` u8 [out, in/2] (two e2m1 values a byte, the even
column in the low nibble), `weight_scale` e4m3 [out, in/16], `weight_scale_2` f32 scalar:

    w[o, i] = e2m1(nibble) * float(weight_scale[o, i // 16]) * weight_scale_2

Safetensors: 8 bytes of header length (little endian), a JSON header, then the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from build_console import BuildError
from llama_config import LlamaConfig, load_llama_config, read_json

BLOCK = 16  # columns that share one e4m3 scale
DTYPE_BYTES = {"U8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4}
# Of no use to weight-only arithmetic with an unquantized KV cache; read by runtimes on GPUs.
IGNORED_SUFFIXES = (".input_scale", ".k_scale", ".v_scale", ".rotary_emb.inv_freq")
FETCH_AGAIN = "fetch the checkpoint again"

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor's bytes as they lie in the file: a read-only view of the mapped pages."""

    name: str
    dtype: str  # as in the safetensors header
    shape: tuple[int, ...]
    data: Bytes  # 1-D u8
    path: Path

    def scalar(self) -> float:
        """The value of a tensor that holds one F32."""
        return float(self.data.view(np.float32)[0])


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
    """Map and check the checkpoint; raises `BuildError` naming file or tensor and the remedy."""
    if not directory.is_dir():
        raise BuildError(
            f"{directory} is no directory; give --checkpoint a folder with an NVFP4 checkpoint"
        )
    config = load_llama_config(directory)
    _check_quantization(directory)
    tensors: dict[str, StoredTensor] = {}
    for path, names in _shards(directory).items():
        found = read_safetensors(path)
        for name in names or found:
            if name not in found:
                raise BuildError(
                    f"{path} lacks the tensor {name} that the index places there; {FETCH_AGAIN}"
                )
            tensors[name] = found[name]
    _check_layout(directory, config, tensors)
    return Checkpoint(directory, config, tensors)


def linear_shapes(config: LlamaConfig) -> dict[str, tuple[int, int]]:
    """Name within a layer -> (out_features, in_features) of the seven quantized linears."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    return {
        "self_attn.q_proj": (q_size, hidden),
        "self_attn.k_proj": (kv_size, hidden),
        "self_attn.v_proj": (kv_size, hidden),
        "self_attn.o_proj": (hidden, q_size),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def expected_tensors(config: LlamaConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor that the forward pass reads."""
    hidden, vocab = config.hidden_size, config.vocab_size
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "model.embed_tokens.weight": ("BF16", (vocab, hidden)),
        "model.norm.weight": ("BF16", (hidden,)),
    }
    if not config.tie_word_embeddings:
        expected["lm_head.weight"] = ("BF16", (vocab, hidden))
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            expected[f"{prefix}{norm}.weight"] = ("BF16", (hidden,))
        for linear, (rows, columns) in linear_shapes(config).items():
            expected[f"{prefix}{linear}.weight"] = ("U8", (rows, columns // 2))
            expected[f"{prefix}{linear}.weight_scale"] = ("F8_E4M3", (rows, columns // BLOCK))
            expected[f"{prefix}{linear}.weight_scale_2"] = ("F32", ())
    return expected


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Map one safetensors file; raises `BuildError` if it is missing, truncated or damaged."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except FileNotFoundError:
        raise BuildError(f"the shard {path} does not exist; {FETCH_AGAIN}") from None
    header_end = 8 + int.from_bytes(mapped[:8], "little")
    if size < 8 or header_end > size:
        raise BuildError(f"{path} is truncated ({size} bytes); {FETCH_AGAIN}")
    try:
        header = json.loads(mapped[8:header_end])
        header.pop("__metadata__", None)
        content = np.frombuffer(mapped, np.uint8)[header_end:]
        return {name: _stored(path, name, entry, content) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path} has a damaged header ({error!r}); {FETCH_AGAIN}") from error


def _stored(path: Path, name: str, entry: dict[str, Any], content: Bytes) -> StoredTensor:
    begin, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if end > content.size:
        missing = end - content.size
        raise BuildError(
            f"{path} is truncated: {name} ends {missing} bytes behind the file; {FETCH_AGAIN}"
        )
    if end - begin != math.prod(shape) * DTYPE_BYTES.get(dtype, -1) and dtype in DTYPE_BYTES:
        raise BuildError(
            f"{path}: {name} has {end - begin} bytes for {dtype} {list(shape)}; {FETCH_AGAIN}"
        )
    return StoredTensor(name, dtype, shape, content[begin:end], path)


def _shards(directory: Path) -> dict[Path, list[str]]:
    """Shard -> the tensors that the index places in it; an empty list stands for all."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return {directory / "model.safetensors": []}
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BuildError(f"{index} has no weight_map; {FETCH_AGAIN}")
    shards: dict[Path, list[str]] = {}
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise BuildError(
                f"{index} places {name} in {file_name!r}, allowed is a file name; {FETCH_AGAIN}"
            )
        shards.setdefault(directory / file_name, []).append(name)
    return dict(sorted(shards.items()))


def _check_quantization(directory: Path) -> None:
    """`hf_quant_config.json` is authoritative; the copy inside `config.json` stands in for it."""
    path = directory / "hf_quant_config.json"
    if path.exists():
        facts: dict[str, Any] = read_json(path).get("quantization") or {}
        group_size = facts.get("group_size", BLOCK)
    else:
        path = directory / "config.json"
        facts = read_json(path).get("quantization_config") or {}
        groups: dict[str, Any] = facts.get("config_groups") or {}
        group: dict[str, Any] = next(iter(groups.values()), {})
        group_size = group.get("weights", {}).get("group_size", BLOCK)
    algorithm = facts.get("quant_algo")
    if algorithm != "NVFP4" or group_size != BLOCK:
        raise BuildError(
            f"{path}: quant_algo is {algorithm!r} with group_size {group_size!r}, "
            f"allowed is 'NVFP4' with {BLOCK}; quantize the model with build/quantize.py"
        )


def _check_layout(directory: Path, config: LlamaConfig, tensors: dict[str, StoredTensor]) -> None:
    expected = expected_tensors(config)
    for name, (dtype, shape) in expected.items():
        if name not in tensors:
            raise BuildError(
                f"{directory} lacks the tensor {name} that config.json calls for; {FETCH_AGAIN}"
            )
        tensor = tensors[name]
        same_shape = tensor.shape == shape or (shape == () and tensor.shape == (1,))
        if tensor.dtype != dtype or not same_shape:
            raise BuildError(
                f"{tensor.path}: {name} is {tensor.dtype} {list(tensor.shape)}, config.json calls "
                f"for {dtype} {list(shape)}; give an NVFP4 checkpoint with its own config.json"
            )
        if name.endswith(".weight_scale_2") and not 0 < tensor.scalar() < math.inf:
            raise BuildError(
                f"{tensor.path}: {name} is {tensor.scalar()}, allowed is above 0; {FETCH_AGAIN}"
            )
    known = {*expected, *(["lm_head.weight"] if config.tie_word_embeddings else [])}
    for name, tensor in tensors.items():
        if name not in known and not name.endswith(IGNORED_SUFFIXES):
            raise BuildError(
                f"{tensor.path} holds the tensor {name}, which no plain Llama 3.x has; "
                "give a checkpoint without biases, adapters or smoothing scales"
            )
