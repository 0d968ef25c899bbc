"""The `config.json` values of the model shapes that random checkpoints are made of."""

from __future__ import annotations

from typing import Any

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
