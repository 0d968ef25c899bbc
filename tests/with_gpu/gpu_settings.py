"""The settings of the GPU's tests for each runtime, and what their two parts share."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STREAMS = (1, 16, 64, 256)
PROMPT_TOKENS = OUTPUT_TOKENS = 128
LIMITS = {
    "demo": {"max_seq_len": 2048, "max_batch_size": 16, "max_num_tokens": 64},
    "large": {
        "max_seq_len": 2048,
        "max_batch_size": max(STREAMS),
        "max_num_tokens": 4096,
        "max_queue_size": 2 * max(STREAMS),
    },
}
# The share of the GPU's memory for weights and KV cache; the rest is for the large reference.
SHARES = {"demo": 0.3, "large": 0.4}
BF16 = "bfloat16"


# The demo's longest context without the positions that SGLang reserves.
LONGEST_DEMO_OF_SGLANG = 2048 - 7


def limits(runtime: str, size: str) -> dict[str, int]:
    """The limits of the engine of that size."""
    if (runtime, size) == ("sglang", "demo"):
        return {**LIMITS[size], "max_seq_len": LONGEST_DEMO_OF_SGLANG}
    return LIMITS[size]


def keeps_kv_in_fp8(runtime: str, size: str) -> bool:
    """Whether a cache of 16 bits is impossible or wrong.

    The demo's KV scales are not 1, and SGLang applies them on one side only.
    """
    return runtime == "tensorrt_llm" or (runtime, size) == ("sglang", "demo")


def runtime_options(runtime: str, size: str) -> dict[str, Any]:
    """A share of the memory, and a KV cache of 16 bits where the runtime offers it.

    A cache in FP8 changes the random model's logits by more than its best tokens lead. That model
    has no prefix cache either, so that a repeated prompt is computed in the same shapes.
    """
    share, cache = SHARES[size], size == "demo"
    if runtime == "vllm":
        options = {"gpu_memory_utilization": share, "enable_prefix_caching": cache}
        return {**options, "kv_cache_dtype": BF16}
    if runtime == "sglang":
        options = {"mem_fraction_static": share, "disable_radix_cache": not cache}
        return options if keeps_kv_in_fp8(runtime, size) else {**options, "kv_cache_dtype": BF16}
    return {"kv_cache_config": {"free_gpu_memory_fraction": share, "enable_block_reuse": cache}}


@dataclass(frozen=True)
class Setting:
    """One runtime's deployments, as `run.py` hands them to the tests in both interpreters."""

    runtime: str
    computes_in_fp4: bool  # activations too; else BF16
    engines: dict[str, str]  # folder of "demo" and of "large"
    checkpoints: dict[str, str]
    engine_python: str
    prompts: list[str]  # of PROMPT_TOKENS tokens on the large model
    prompt_ids: list[list[int]]
    figures: str  # folder for what is measured

    def is_exact(self, size: str) -> bool:
        """Whether it computes with 16 bits or more; then all golden prompts must match."""
        return not (self.computes_in_fp4 or keeps_kv_in_fp8(self.runtime, size))

    def engine(self, size: str) -> Path:
        """Its folder."""
        return Path(self.engines[size])

    def write_figures(self, name: str, figures: dict[int, float]) -> None:
        """Tokens/s by streams, for the table at the end; printed at once too."""
        path = Path(self.figures) / f"{self.runtime}-{name}.json"
        path.write_text(json.dumps(figures), encoding="utf-8")
        print(f"{name}, tokens/s by streams: {figures}", flush=True)


def load_setting() -> Setting:
    """The setting that GPU_SETTING names."""
    document = json.loads(Path(os.environ["GPU_SETTING"]).read_text(encoding="utf-8"))
    return Setting(**document)
