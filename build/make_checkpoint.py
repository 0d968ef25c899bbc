#!/usr/bin/env python3
"""Write an NVFP4 checkpoint with random weights, in the layout and size of a real one.

    python build/make_checkpoint.py --shape llama-3.1-8b --random --output DIR

To try loading, memory and speed at full size without the real weights. Tensors are made and written
in chunks, so it needs little memory.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.llama_config import parse_llama_config
from host.console import BuildError, Phase, at_least_1, run_script, say, script_imports
from host.output_folder import written_whole

with script_imports(__name__):
    import numpy as np
    from checkpoints.layout import BLOCK, complete_layout
    from checkpoints.safetensors_file import DTYPE_BYTES, Bytes, header_bytes

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
CHUNK_BYTES = 64 * 2**20
E2M1_RMS = 2.93  # of sixteen equally likely codes
SCALE_BYTES = (0x68, 0x7F)  # e4m3 64 to 448, as Model Optimizer's scales mostly are
SCALE_RMS = 232.0
# config.json of the shapes that can be made.
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LLAMA3_IDS = {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]}


def _shape(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": hidden // heads,
        "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": False,
        "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, **LLAMA3_IDS, **more,
    }  # fmt: skip


_32 = {"tie_word_embeddings": True, "rope_scaling": {**LLAMA3_ROPE, "factor": 32.0}}
_SMALL = {"max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": [1, 2, 3]}
SHAPES = {
    "llama-3.1-8b": _shape(4096, 14336, 32, 32, 8),
    "llama-3.2-1b": _shape(2048, 8192, 16, 32, 8, **_32),
    "llama-3.2-3b": _shape(3072, 8192, 28, 24, 8, **_32),
    "demo": _shape(256, 768, 4, 8, 2, vocab_size=4096, **_SMALL),
    "tiny": _shape(64, 160, 2, 4, 2, vocab_size=512, **_SMALL),
}


@dataclass(frozen=True)
class TensorPlan:
    """One tensor to write."""

    name: str
    dtype: str  # as in the safetensors header
    shape: tuple[int, ...]
    hidden_size: int = 1  # the model's: sets the magnitude of the global scales

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def make_checkpoint(
    output: Path, shape: dict[str, Any], seed: int, shard_bytes: int, tokenizer: Path | None = None
) -> None:
    """Write the checkpoint, with at most `shard_bytes` of tensors in each file."""
    plans = plan_tensors(shape)
    total = sum(plan.size for plan in plans)
    shards = into_shards(plans, shard_bytes)
    generator = np.random.Generator(np.random.SFC64(seed))
    with written_whole(output, "hf_quant_config.json", total) as folder:
        _write_configs(folder, shape)
        if tokenizer is not None:
            _copy_tokenizer(tokenizer, folder)
        with Phase(f"writing {len(plans)} tensors, {total:,} bytes", total) as phase:
            for number, shard in enumerate(shards, 1):
                _write_shard(folder / _shard_name(number, len(shards)), shard, generator, phase)
        if len(shards) > 1:
            _write_index(folder, shards, total)
    say(f"{output} is ready: {len(plans)} tensors, {total:,} bytes, {len(shards)} shard(s)")


def plan_tensors(shape: dict[str, Any]) -> list[TensorPlan]:
    """Every tensor in the order of the files: layers first, `lm_head.weight` last."""
    config = parse_llama_config(Path("config.json"), _config_document(shape), {})
    plans = [
        TensorPlan(name, *kind, config.hidden_size)
        for name, kind in complete_layout(config).items()
    ]
    return sorted(plans, key=lambda plan: plan.name == "lm_head.weight")


def into_shards(plans: list[TensorPlan], shard_bytes: int) -> list[list[TensorPlan]]:
    """Cut the list where a file would exceed `shard_bytes`, and order the tensors of each file."""
    shards: list[list[TensorPlan]] = [[]]
    for plan in plans:
        if shards[-1] and sum(other.size for other in shards[-1]) + plan.size > shard_bytes:
            shards.append([])
        shards[-1].append(plan)
    # Wide types first, as safetensors' own writer does: each tensor is aligned to its width.
    return [sorted(s, key=lambda plan: (-DTYPE_BYTES[plan.dtype], plan.name)) for s in shards]


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _write_shard(
    path: Path, plans: list[TensorPlan], generator: np.random.Generator, phase: Phase
) -> None:
    with path.open("wb") as file:
        file.write(header_bytes((plan.name, plan.dtype, plan.shape) for plan in plans))
        for plan in plans:
            for chunk in _random_bytes(plan, generator):
                file.write(chunk.data)
                phase.advance(chunk.size)


def _random_bytes(plan: TensorPlan, generator: np.random.Generator) -> Iterator[Bytes]:
    """A tensor's bytes in chunks; magnitudes keep every layer's output near its input's size."""
    if plan.dtype == "F32":
        yield np.frombuffer(np.float32(_scalar(plan)).tobytes(), np.uint8)
        return
    for start in range(0, plan.size, CHUNK_BYTES):
        size = min(CHUNK_BYTES, plan.size - start)
        chunk = generator.integers(0, 2**64, -(-size // 8), np.uint64).view(np.uint8)[:size]
        if plan.dtype == "F8_E4M3":
            low, high = SCALE_BYTES
            chunk = (low + chunk % (high - low)).astype(np.uint8)
        elif plan.dtype == "BF16":
            bits = chunk.view(np.uint16)
            # Norm weights from 1 to 1.25; embedding and head of either sign, from 2**-7 to 2**-5.
            mask, base = (0x001F, 0x3F80) if len(plan.shape) == 1 else (0x80FF, 0x3C00)
            chunk = (bits & np.uint16(mask) | np.uint16(base)).view(np.uint8)
        yield chunk


def _scalar(plan: TensorPlan) -> float:
    if not plan.name.endswith(".weight_scale_2"):
        return 1.0 if plan.name.endswith(("k_scale", "v_scale")) else 1e-3
    return 1.0 / (E2M1_RMS * SCALE_RMS * math.sqrt(plan.hidden_size))


def _config_document(shape: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-05,
        **shape,
    }  # fmt: skip


def quantization_config() -> dict[str, Any]:
    """config.json's, as Model Optimizer 0.35 writes it; vLLM looks for NVFP4 there."""
    numbers = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": BLOCK}
    group = {"input_activations": numbers, "weights": numbers, "targets": ["Linear"]}
    return {
        "config_groups": {"group_0": group}, "ignore": ["lm_head"], "quant_algo": "NVFP4",
        "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
        "producer": {"name": "make_checkpoint"}, "quant_method": "modelopt",
    }  # fmt: skip


def _write_configs(folder: Path, shape: dict[str, Any]) -> None:
    quantization = {
        "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": BLOCK,
        "exclude_modules": ["lm_head"],
    }  # fmt: skip
    config = {**_config_document(shape), "quantization_config": quantization_config()}
    documents = {
        "config.json": config,
        "generation_config.json": {key: shape[key] for key in ("bos_token_id", "eos_token_id")},
        "hf_quant_config.json": {
            "producer": {"name": "make_checkpoint"},
            "quantization": quantization,
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _write_index(folder: Path, shards: list[list[TensorPlan]], total: int) -> None:
    weight_map = {
        plan.name: _shard_name(number, len(shards))
        for number, shard in enumerate(shards, 1)
        for plan in shard
    }
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8"
    )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    if not (source / "tokenizer.json").is_file():
        raise BuildError(
            f"{source} holds no tokenizer.json; give --tokenizer a checkpoint that has one"
        )
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


@dataclass(frozen=True)
class Options:
    """The command line."""

    shape: str
    random: bool
    seed: int
    output: Path
    tokenizer: Path | None
    shard_bytes: int


def _arguments() -> Options:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=sorted(SHAPES), required=True)
    add("--random", action="store_true", required=True, help="confirm that the weights are noise")
    add("--seed", type=int, default=0)
    add("--output", type=Path, required=True)
    add("--tokenizer", type=Path, help="a checkpoint whose tokenizer files are copied")
    add(
        "--shard-bytes", type=at_least_1, default=5_000_000_000, help="most bytes of tensors a file"
    )
    return Options(**vars(parser.parse_args()))


def main() -> None:
    """The command line's entry."""
    options = _arguments()
    if options.seed < 0:
        raise BuildError(f"--seed must be at least 0, not {options.seed}")
    make_checkpoint(
        options.output, SHAPES[options.shape], options.seed, options.shard_bytes, options.tokenizer
    )


if __name__ == "__main__":
    run_script(main)
