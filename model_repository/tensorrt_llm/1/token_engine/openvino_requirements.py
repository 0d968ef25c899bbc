"""What an OpenVINO engine needs of the machine, checked before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from token_engine.interface import EngineLoadError
from token_engine.openvino_options import BYTES_OF_PRECISION, KV_BLOCK_TOKENS, OpenVinoOptions

MODEL_FILES = ("openvino_model.xml", "openvino_model.bin", "config.json", "generation_config.json")
REBUILD = "rebuild the engine with 'make engine'"


def check_release(built_with: dict[str, str], installed: str) -> None:
    """Raise `EngineLoadError` if year.release of the two OpenVINO versions differ."""
    built = built_with.get("openvino", "unknown")
    present = installed.split("-")[0]
    if built.split(".")[:2] != present.split(".")[:2]:
        raise EngineLoadError(
            f"the engine was built with openvino {built}, installed is {present}; {REBUILD}"
        )


def check_memory(directory: Path, options: OpenVinoOptions) -> None:
    """Raise `EngineLoadError` if a file is missing, or weights and KV cache exceed free memory."""
    for name in MODEL_FILES:
        if not (directory / name).is_file():
            raise EngineLoadError(f"{directory / name} does not exist; {REBUILD}")
    weights = (directory / "openvino_model.bin").stat().st_size
    cache = kv_cache_bytes(directory, options)
    free = available_bytes()
    if weights + cache > free:
        raise EngineLoadError(
            f"the weights ({weights / 1e9:.1f} GB) and the KV cache ({cache / 1e9:.1f} GB, "
            f"num_kv_blocks {options.num_kv_blocks}) exceed the {free / 1e9:.1f} GB that are "
            "free; build the engine with a smaller --kv-cache-tokens, or free memory"
        )


def kv_cache_bytes(directory: Path, options: OpenVinoOptions) -> int:
    """Size of the KV cache, from the model's shape in `config.json`."""
    try:
        model = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        heads = model["num_attention_heads"]
        head_dim = model.get("head_dim") or model["hidden_size"] // heads
        values = 2 * model["num_hidden_layers"] * model.get("num_key_value_heads", heads) * head_dim
    except (ValueError, KeyError, TypeError) as error:
        raise EngineLoadError(
            f"{directory / 'config.json'} is damaged ({error!r}); {REBUILD}"
        ) from error
    return int(
        values
        * KV_BLOCK_TOKENS
        * options.num_kv_blocks
        * BYTES_OF_PRECISION[options.kv_cache_precision]
    )


def available_bytes(
    proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """Memory to be had without swapping: the machine's, or the container's if that is less."""
    fields = dict(line.split(":", 1) for line in proc.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or the limit is "max"
        return free
    return min(free, max(0, limit - used))
