"""Checks the BF16 Llama 3.x before it is quantized: its tensors' names, dtypes and shapes, and its
tokenizer. The weights' values are not read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from checkpoints.layout import TensorKind, expected_tensors, layer_prefix, linear_shapes
from checkpoints.llama_config import LlamaConfig, load_llama_config
from checkpoints.manifest import NEEDED, shard_names, small_files
from checkpoints.nvfp4 import HEAD, has_own_head
from checkpoints.safetensors_file import StoredTensor, read_shards
from host.console import BuildError
from host.json_document import read_json

# Written by the export, not copied from the source.
REWRITTEN = ("config.json", "hf_quant_config.json", "model.safetensors.index.json")


@dataclass(frozen=True)
class SourceModel:
    """A checked BF16 folder; `tensors` are its weights, mapped."""

    directory: Path
    config: LlamaConfig
    tensors: dict[str, StoredTensor]

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.data.size for tensor in self.tensors.values())

    @property
    def copied_files(self) -> list[str]:
        """The files that the quantized model gets unchanged: tokenizer, licence, ..."""
        return [name for name in small_files(self.directory) if name not in REWRITTEN]

    def fingerprint(self) -> dict[str, list[int]]:
        """File -> size and mtime (ns) of everything that the result is made of."""
        names = ["config.json", *self.copied_files, *shard_names(self.directory)]
        facts = {name: (self.directory / name).stat() for name in names}
        return {name: [fact.st_size, fact.st_mtime_ns] for name, fact in facts.items()}


def open_source(directory: Path) -> SourceModel:
    """Map and check the folder; raises `BuildError` naming file, key or tensor and the remedy."""
    if not directory.is_dir():
        raise BuildError(f"{directory} is not a folder; give --model one with a BF16 Llama 3.x")
    _check_unquantized(directory)
    config = load_llama_config(directory)
    for name in NEEDED:
        if not (directory / name).is_file():
            raise BuildError(
                f"{directory} has no {name}; give --model the whole Hugging Face folder, with its "
                "tokenizer"
            )
        read_json(directory / name)
    tensors = read_shards(directory)
    if config.tie_word_embeddings and has_own_head(tensors):
        raise BuildError(
            f"{directory / 'config.json'}: tie_word_embeddings is true, but {HEAD} is stored and "
            "is not the embedding, which versions of transformers read differently; set it to false"
        )
    _check_layout(directory, config, tensors)
    return SourceModel(directory, config, tensors)


def bf16_layout(config: LlamaConfig) -> dict[str, TensorKind]:
    """Name -> (dtype, shape) of every tensor of the unquantized model."""
    layout = {
        name: kind for name, kind in expected_tensors(config).items() if name.endswith(".weight")
    }
    for layer in range(config.num_hidden_layers):
        for linear, shape in linear_shapes(config).items():
            layout[f"{layer_prefix(layer)}{linear}.weight"] = ("BF16", shape)
    return layout


def _check_unquantized(directory: Path) -> None:
    config = read_json(directory / "config.json")
    quantization = config.get("quantization_config")
    if quantization is None and not (directory / "hf_quant_config.json").exists():
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    raise BuildError(
        f"{directory} is quantized already (quant_method {method!r}); give --model the BF16 model "
        "that it was made from"
    )


def _check_layout(directory: Path, config: LlamaConfig, tensors: dict[str, StoredTensor]) -> None:
    layout = bf16_layout(config)
    for name, (dtype, shape) in layout.items():
        if name not in tensors:
            raise BuildError(
                f"{directory} lacks the tensor {name} that config.json calls for; give weights "
                "and a config.json that belong together"
            )
        found = tensors[name]
        if (found.dtype, found.shape) != (dtype, shape):
            raise BuildError(
                f"{found.path}: {name} is {found.dtype} {list(found.shape)}, but must be {dtype} "
                f"{list(shape)}; give --model a model saved in bfloat16 with its own config.json"
            )
    spare = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name, tensor in tensors.items():
        if name not in layout and name not in spare and not name.endswith(".rotary_emb.inv_freq"):
            raise BuildError(
                f"{tensor.path} holds the tensor {name}, which is not part of a plain Llama 3.x; "
                "give a model without biases, adapters or another head"
            )
