"""How much memory a Llama of some shape takes on the CPU, as OpenVINO 2026.4 keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from token_engine.openvino_runtime.options import BYTES_OF_PRECISION, KV_BLOCK_TOKENS

# Measured: the anonymous memory of loaded and warm engines of four shapes, from 60 million to 7
# billion 4-bit weights, in both precisions and on what three kinds of CPU have; within 2 %.
LINEAR_BYTES = 1.04  # of a 4-bit weight: itself, repacked, with its block's scale in f32
VOCABULARY_BYTES = {"bf16": 6, "f32": 8}  # of a value of the LM head and one of the embedding


@dataclass(frozen=True)
class ModelShape:
    """The counts that decide it."""

    linear_values: int  # of all 4-bit weights
    vocabulary_values: int  # of the LM head; the embedding has as many
    kv_values_per_token: int  # keys and values of all layers

    @classmethod
    def of(cls, config: dict[str, Any]) -> ModelShape:
        """From a `config.json`; raises `KeyError`, `TypeError`, `ValueError` for a damaged one."""
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        heads = int(config["num_attention_heads"])
        head_dim = int(config.get("head_dim") or hidden // heads)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        attention = (2 * heads + 2 * kv_heads) * head_dim * hidden
        mlp = 3 * hidden * int(config["intermediate_size"])
        return cls(
            linear_values=layers * (attention + mlp),
            vocabulary_values=hidden * int(config["vocab_size"]),
            kv_values_per_token=2 * layers * kv_heads * head_dim,
        )

    def weight_bytes(self, precision: str) -> int:
        """Of the repacked weights, where the arithmetic is in `precision`.

        The mapped file that they are made of does not count: the system takes it back at need.
        """
        vocabulary = self.vocabulary_values * VOCABULARY_BYTES[precision]
        return int(self.linear_values * LINEAR_BYTES + vocabulary)

    def kv_cache_bytes(self, num_kv_blocks: int, precision: str) -> int:
        """Of the KV cache, when it is full."""
        tokens = num_kv_blocks * KV_BLOCK_TOKENS
        return int(tokens * self.kv_values_per_token * BYTES_OF_PRECISION[precision])
