"""`runtime_options` of an OpenVINO engine. Imports no OpenVINO: the build reads it too."""

from __future__ import annotations

from dataclasses import dataclass

from token_engine.checks import require

KV_BLOCK_TOKENS = 32  # fixed by OpenVINO GenAI on the CPU
AUTO = "auto"  # settled at load by what the CPU has: precision.py
PRECISIONS = (AUTO, "bf16", "f32")
# Bytes of a value in the KV cache. That of u8 holds its scales and zero points too (measured).
BYTES_OF_PRECISION = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "u8": 1.25}
KV_CACHE_PRECISIONS = (AUTO, *BYTES_OF_PRECISION)


@dataclass(frozen=True)
class OpenVinoOptions:
    """What `engine.json` may say to this runtime."""

    num_kv_blocks: int  # the KV cache, in blocks of 32 tokens
    precision: str = AUTO  # of the arithmetic: "auto", "bf16", or "f32" to equal the reference
    kv_cache_precision: str = AUTO  # "auto", "f32", "bf16", "f16", or "u8" for half the memory
    num_threads: int = 0  # 0: one for each core
    # Prompts that begin alike share their KV blocks. Off: OpenVINO GenAI 2026.4 files a block that
    # a cancelled or split prefill left half computed as a whole one, and under load some of the
    # requests that share it get wrong tokens (81 of 10,840 measured with 8 at once, none without).
    enable_prefix_caching: bool = False

    def __post_init__(self) -> None:
        require(self.num_kv_blocks >= 1, "num_kv_blocks", self.num_kv_blocks, "at least 1")
        for name, known in (
            ("precision", PRECISIONS),
            ("kv_cache_precision", KV_CACHE_PRECISIONS),
        ):
            words = f"one of {', '.join(map(repr, known))}"
            require(getattr(self, name) in known, name, getattr(self, name), words)
        require(self.num_threads >= 0, "num_threads", self.num_threads, "0 or more")
