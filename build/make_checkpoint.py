#!/usr/bin/env python3
"""Write an NVFP4 checkpoint with random weights, in the true layout, byte for byte as large.

    python build/make_checkpoint.py --shape llama-3.1-8b --random --output DIR

For loading, memory and speed at full size without the real weights. The linears are written as
packed bytes right away, so it needs no more memory than one tensor.
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

import numpy as np
from checkpoints.llama_config import parse_llama_config
from checkpoints.nvfp4 import BLOCK, DTYPE_BYTES, Bytes, expected_tensors, linear_shapes
from checkpoints.shapes import SHAPES
from host.console import BuildError, Phase, run_script, say
from host.output_folder import written_whole

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


@dataclass(frozen=True)
class TensorPlan:
    """One tensor to write."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    hidden_size: int = 1  # of the model: sets the magnitude of the global scales

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def make_checkpoint(
    output: Path, shape: dict[str, Any], seed: int, shard_bytes: int, tokenizer: Path | None = None
) -> None:
    """Write the checkpoint; `shard_bytes` is the most that the tensors of one file take."""
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
    hidden = config.hidden_size
    plans = [TensorPlan(name, *kind, hidden) for name, kind in expected_tensors(config).items()]
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        plans += [
            TensorPlan(f"{prefix}{linear}.input_scale", "F32", ())
            for linear in linear_shapes(config)
        ]
        plans += [TensorPlan(f"{prefix}self_attn.{x}_proj.{x}_scale", "F32", ()) for x in "kv"]
    return sorted(plans, key=lambda plan: plan.name == "lm_head.weight")


def into_shards(plans: list[TensorPlan], shard_bytes: int) -> list[list[TensorPlan]]:
    """Cut the list where a file's tensors would exceed `shard_bytes`; order each file's tensors."""
    shards: list[list[TensorPlan]] = [[]]
    for plan in plans:
        if shards[-1] and sum(other.size for other in shards[-1]) + plan.size > shard_bytes:
            shards.append([])
        shards[-1].append(plan)
    # Wide types first, as safetensors' own writer does: each tensor is aligned to its width.
    return [sorted(s, key=lambda plan: (-DTYPE_BYTES[plan.dtype], plan.name)) for s in shards]


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def shard_header(plans: list[TensorPlan]) -> bytes:
    """A safetensors file up to its first tensor's bytes, which follow in the order of `plans`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for plan in plans:
        start, end = end, end + plan.size
        entry = {"dtype": plan.dtype, "shape": list(plan.shape), "data_offsets": [start, end]}
        header[plan.name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_shard(
    path: Path, plans: list[TensorPlan], generator: np.random.Generator, phase: Phase
) -> None:
    with path.open("wb") as file:
        file.write(shard_header(plans))
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument(
        "--random", action="store_true", required=True, help="say that the weights are noise"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--tokenizer", type=Path, help="a checkpoint whose tokenizer files are copied"
    )
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    return parser.parse_args()


def main() -> None:
    """The command line."""
    options = _arguments()
    make_checkpoint(
        options.output, SHAPES[options.shape], options.seed, options.shard_bytes, options.tokenizer
    )


if __name__ == "__main__":
    run_script(main)
