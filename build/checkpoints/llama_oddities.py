"""Keys of a `config.json` that would make another model of a plain Llama 3.x.

Descendants of Llama keep its `model_type` and add keys of their own: multipliers (Granite), soft
caps (Gemma), norms of queries and keys, layers without rotation, sliding windows, experts.
transformers' Llama ignores most of them, other runtimes obey some, and the weights were trained
with them. So a key that speaks of such a thing, and says more than "off", stops the build.
"""

from __future__ import annotations

import re
from typing import Any

from host.console import BuildError
from host.json_document import Values

ODD = re.compile(
    r"adapter|alibi|attention|attn|bias|block_config|clip|cross|embed|expert|layer_types|logit|lora"
    r"|moe|mtp|multiplier|mup|nextn|nope|norm|parallel|residual|rope|rotary|router|scal|softcap"
    r"|sparse|window"
)
# Names that hold such a word and are read elsewhere, or change nothing when a model generates.
HARMLESS = re.compile(
    r"num_attention_heads|max_position_embeddings|original_max_position_embeddings|rms_norm_eps"
    r"|tie_word_embeddings|rope_theta|rope_scaling|rope_parameters|partial_rotary_factor"
    r"|.*dropout.*|.*pdrop|_?attn_implementation.*|output_attentions|output_router_logits"
    r"|router_.*loss.*|max_window_layers|.*init.*|quantization_config|.*_lr|.*flash.*"
)
PLAIN = "a plain Llama 3.x has none; remove the key if the model was trained without it"


def check_family(values: Values) -> None:
    """Raise `BuildError` for another model than a Llama that writes text."""
    if values.text("model_type") != "llama":
        raise values.wrong("model_type", "'llama'; give a Llama 3.x checkpoint")
    architectures = values.texts("architectures")
    if architectures and not any(name.endswith("ForCausalLM") for name in architectures):
        raise values.wrong("architectures", "['LlamaForCausalLM']: a model that writes text")
    if values.document.get("hidden_act", "silu") != "silu":
        raise values.wrong("hidden_act", "'silu'")
    for key in ("attention_bias", "mlp_bias"):
        if values.flag(key):
            raise values.wrong(key, "false")


def check_plain(values: Values, head_dim: int, positions: int) -> None:
    """Raise `BuildError` for a key that makes another forward pass than Llama 3.x's."""
    for key, value in values.document.items():
        if ODD.search(key) and not HARMLESS.fullmatch(key):
            _check_off(values, key, value, head_dim, positions)


def _check_off(values: Values, key: str, value: Any, head_dim: int, positions: int) -> None:
    if value in (None, False, 0, "", [], {}):
        return
    neutral: BuildError | None = None
    if re.search(r"multiplier|scal", key):
        neutral = _unless(value == 1 or value == head_dim**-0.5, values, key, "1")
    elif key == "sliding_window":
        off = values.document.get("use_sliding_window") is False
        reaches = type(value) is int and value >= positions
        neutral = _unless(off or reaches, values, key, f"null or at least {positions}")
    elif key == "layer_types":
        full = isinstance(value, list) and all(kind == "full_attention" for kind in value)
        neutral = _unless(full, values, key, "'full_attention' for every layer")
    elif key in ("no_rope_layers", "rope_layers"):
        rotated = isinstance(value, list) and all(flag == 1 for flag in value)
        neutral = _unless(rotated, values, key, "1 for every layer")
    else:
        neutral = values.wrong(key, f"absent: {PLAIN}")
    if neutral is not None:
        raise neutral


def _unless(is_off: bool, values: Values, key: str, off: str) -> BuildError | None:
    return None if is_off else values.wrong(key, f"{off} or absent: {PLAIN}")
