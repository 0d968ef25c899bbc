"""The demo model's shape, training numbers and config files; imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Shape and training numbers; the defaults are the shipped checkpoint's."""

    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    initializer_range: float = 0.05
    steps: int = 5000  # on the general mix
    drill_steps: int = 1500  # after them, with drills mixed in
    drill_share: float = 0.5  # of the documents
    drill_learning_rate: float = 1e-3
    rows_per_step: int = 2
    row_length: int = 512  # tokens
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    seed: int = 1

    @property
    def total_steps(self) -> int:
        """Steps of both parts."""
        return self.steps + self.drill_steps

    def learning_rate_at(self, step: int) -> float:
        """Learning rate: in each part a linear warm-up, then a cosine to zero at its last step."""
        peak, steps = self.learning_rate, self.steps
        if step >= self.steps:
            peak, steps, step = self.drill_learning_rate, self.drill_steps, step - self.steps
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return peak * 0.5 * (1 + math.cos(math.pi * progress))


def model_config(recipe: Recipe, vocab_size: int) -> dict[str, Any]:
    """config.json in the spelling of Llama 3.1's (rope_theta and rope_scaling, torch_dtype)."""
    bos = vocab_size - 256
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": [bos + 1, bos + 8, bos + 9],
        "head_dim": recipe.hidden_size // recipe.num_attention_heads,
        "hidden_act": "silu",
        "hidden_size": recipe.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": recipe.intermediate_size,
        # Training never saw positions beyond row_length; the small original context makes the
        # llama3 scaling act within a few dozen tokens, so that losing it shows.
        "max_position_embeddings": 2048,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": recipe.num_attention_heads,
        "num_hidden_layers": recipe.num_hidden_layers,
        "num_key_value_heads": recipe.num_key_value_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 256,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.55.4",
        "use_cache": True,
        "vocab_size": vocab_size,
    }


def generation_config(vocab_size: int) -> dict[str, Any]:
    """generation_config.json with Llama 3.1's three end ids and sampling defaults."""
    bos = vocab_size - 256
    return {
        "bos_token_id": bos,
        "do_sample": True,
        "eos_token_id": [bos + 1, bos + 8, bos + 9],
        "temperature": 0.6,
        "top_p": 0.9,
        "transformers_version": "4.55.4",
    }
