"""An NVFP4 checkpoint as NVIDIA Model Optimizer writes it: mapped, checked against its config.

A linear layer [out, in] is stored as `weight` u8 [out, in/2] (two e2m1 values a byte, the even
column in the low nibble), `weight_scale` e4m3 [out, in/16], `weight_scale_2` f32 scalar:

    w[o, i] = e2m1(nibble) * float(weight_scale[o, i // 16]) * weight_scale_2
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from host.console import BuildError
from host.json_document import Values, read_json, shown

from checkpoints.layout import BLOCK, check_forward_tensors, layer_prefix, linear_shapes
from checkpoints.llama_config import LlamaConfig, load_llama_config
from checkpoints.safetensors_file import StoredTensor, read_shards

QUANTIZATION = "quantization_config"  # in config.json
MOST_GROUP = 2**16  # columns
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
COMPARED_BYTES = 2**24  # at once


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint: every tensor that `config` calls for, with its dtype and shape."""

    directory: Path
    config: LlamaConfig
    tensors: dict[str, StoredTensor]
    notes: tuple[str, ...] = ()  # warnings, one sentence each

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.data.size for tensor in self.tensors.values())


def open_checkpoint(directory: Path) -> Checkpoint:
    """Map the checkpoint and check that the forward pass can be computed.

    Raises `BuildError` naming file or tensor and the remedy. Only the scalars' values are read;
    `check.check_values` reads the others.
    """
    if not directory.is_dir():
        raise BuildError(
            f"{directory} is not a folder; give --checkpoint a folder with an NVFP4 checkpoint"
        )
    config = load_llama_config(directory)
    check_quantization(directory)
    tensors = read_shards(directory)
    if config.tie_word_embeddings and EMBEDDING not in tensors and HEAD in tensors:
        # safetensors' own writer keeps one name of a shared tensor: the first in the alphabet.
        tensors[EMBEDDING] = tensors.pop(HEAD)
    notes: tuple[str, ...] = ()
    if config.tie_word_embeddings and has_own_head(tensors):
        config = replace(config, tie_word_embeddings=False)
        notes = (
            f"warning: {directory / 'config.json'} says tie_word_embeddings true, but {HEAD} is "
            "stored and is not the embedding: the stored head is used, as transformers 5 does; "
            "set it to false",
        )
    check_forward_tensors(directory, config, tensors)
    return Checkpoint(directory, config, tensors, notes)


def has_own_head(tensors: dict[str, StoredTensor]) -> bool:
    """Whether a head is stored whose bytes differ from the embedding's."""
    embedding, head = tensors.get(EMBEDDING), tensors.get(HEAD)
    if embedding is None or head is None:
        return False
    if (embedding.dtype, embedding.shape) != (head.dtype, head.shape):
        return True
    return any(
        not np.array_equal(
            embedding.data[at : at + COMPARED_BYTES], head.data[at : at + COMPARED_BYTES]
        )
        for at in range(0, head.data.size, COMPARED_BYTES)
    )


def check_quantization(directory: Path) -> None:
    """Raise `BuildError` unless the checkpoint says that it is NVFP4 in blocks of 16.

    `hf_quant_config.json` is authoritative, the copy in `config.json` is read if there is no such
    file. If both exist they must agree, since vLLM reads the copy.
    """
    config = directory / "config.json"
    inline = Values(config, read_json(config)).part(QUANTIZATION)
    path = directory / "hf_quant_config.json"
    if not path.exists():
        _check_nvfp4(inline, _inline_group_size(inline))
        return
    facts = Values(path, read_json(path)).part("quantization")
    _check_nvfp4(facts, facts.count("group_size", 1, MOST_GROUP, BLOCK))
    facts.text("kv_cache_quant_algo")
    facts.texts("exclude_modules")
    if inline.text("quant_algo", "NVFP4") != "NVFP4":
        raise inline.wrong("quant_algo", f"'NVFP4', as {path.name} says")


def exclusion_faults(checkpoint: Checkpoint) -> list[str]:
    """One sentence for each entry that excludes a linear which is stored as NVFP4.

    The runtimes on GPUs would load that linear as unquantized.
    """
    return [
        f"{where} has {shown(pattern)}, but {linear} is quantized"
        for where, pattern in _excluded(checkpoint.directory)
        for linear in _linears_like(pattern, checkpoint.config)[:1]
    ]


def _excluded(directory: Path) -> Iterator[tuple[str, str]]:
    """(file and key, pattern) of the excluded linears; `*` stands for any characters."""
    for name, part in (("hf_quant_config.json", "quantization"), ("config.json", QUANTIZATION)):
        path = directory / name
        facts = Values(path, read_json(path)).part(part) if path.exists() else Values(path, {})
        for key in ("exclude_modules", "ignore"):
            listed = facts.document.get(key)
            for pattern in listed if isinstance(listed, list) else ():
                yield f"{path}: {facts.inside}{key}", str(pattern)


def _linears_like(pattern: str, config: LlamaConfig) -> list[str]:
    names = (
        f"{layer_prefix(layer)}{linear}"
        for layer in range(config.num_hidden_layers)
        for linear in linear_shapes(config)
    )
    return [name for name in names if fnmatchcase(name, pattern)]


def _inline_group_size(inline: Values) -> int:
    groups = inline.part("config_groups")
    sizes = {
        groups.part(name).part("weights").count("group_size", 1, MOST_GROUP, BLOCK)
        for name in groups.document
    }
    return next(iter(sizes - {BLOCK}), BLOCK)


def _check_nvfp4(facts: Values, group_size: int) -> None:
    algorithm = facts.text("quant_algo") or facts.text("quant_method")
    if algorithm != "NVFP4" or group_size != BLOCK:
        raise BuildError(
            f"{facts.path}: {facts.inside}quant_algo is {shown(algorithm or None)} with group_size "
            f"{group_size}, but must be 'NVFP4' with {BLOCK}; quantize the BF16 model with "
            "build/quantize.py"
        )
