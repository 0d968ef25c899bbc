"""A Llama 3.x checkpoint's `config.json` and `generation_config.json`, read into typed facts.

Keys mean what they mean to transformers (5.x, where 4.x differs). The type and range of every
number is checked before anything is built from it. A key that would change the mathematics in a way
that the engine does not implement stops the build.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from host.console import BuildError
from host.json_document import Values, read_json

# More than any published Llama or descendant has. Tensor names and tables of positions are made
# from these numbers.
MOST_VOCAB = 2**20
MOST_HIDDEN = 2**16
MOST_INNER = 2**18
MOST_LAYERS = 1024
MOST_HEADS = 1024
MOST_HEAD_DIM = 1024
MOST_POSITIONS = 2**27
EPS_RANGE = (1e-12, 0.01)
THETA_RANGE = (1.0, 1e15)
FACTOR_RANGE = (1.0, 1e6)
FREQ_FACTOR_RANGE = (1e-6, 1e6)
DEFAULT_THETA = 10000.0  # transformers' own
MOST_END_IDS = 256
GENERATION = "generation_config.json"
# Descendants of Llama keep its `model_type` and add keys of their own: multipliers (Granite), soft
# caps (Gemma), norms of queries and keys, layers without rotation, sliding windows, experts.
# transformers' Llama ignores most of them, other runtimes obey some, and the weights were trained
# with them. So a key that names such a thing, and says more than "off", stops the build.
ODD = re.compile(
    r"adapter|alibi|attention|attn|bias|block_config|clip|cross|embed|expert|layer_types|logit|lora"
    r"|moe|mtp|multiplier|mup|nextn|nope|norm|parallel|residual|rope|rotary|router|scal|softcap"
    r"|sparse|window"
)
# Names with such a word that are checked elsewhere or change nothing in a forward pass.
HARMLESS = re.compile(
    r"num_attention_heads|max_position_embeddings|original_max_position_embeddings|rms_norm_eps"
    r"|tie_word_embeddings|rope_theta|rope_scaling|rope_parameters|partial_rotary_factor"
    r"|.*dropout.*|.*pdrop|_?attn_implementation.*|output_attentions|output_router_logits"
    r"|router_.*loss.*|max_window_layers|.*init.*|quantization_config|.*_lr|.*flash.*"
)
PLAIN = "a plain Llama 3.x has none; remove the key if the model was trained without it"


@dataclass(frozen=True)
class Llama3RopeScaling:
    """The `llama3` rope type, which slows low frequencies for contexts beyond the original."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class LlamaConfig:
    """The shape and constants of one Llama 3.x model; names as in `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3RopeScaling | None
    tie_word_embeddings: bool
    bos_token_id: int
    eos_token_ids: tuple[int, ...]  # from config.json and generation_config.json

    @property
    def kv_values_per_token(self) -> int:
        """Numbers in the KV cache for one token, in all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


def load_llama_config(directory: Path) -> LlamaConfig:
    """Read the checkpoint's configuration; raises `BuildError` naming file, key and range."""
    path = directory / "config.json"
    generation = directory / GENERATION
    return parse_llama_config(
        path, read_json(path), read_json(generation) if generation.exists() else {}
    )


def parse_llama_config(
    path: Path, document: dict[str, Any], generation: dict[str, Any]
) -> LlamaConfig:
    """Check the two files' content; `path` is config.json's. Raises `BuildError`."""
    values = Values(path, document)
    _check_family(values)
    vocab_size = values.count("vocab_size", 1, MOST_VOCAB)
    hidden_size = values.count("hidden_size", 1, MOST_HIDDEN)
    heads = values.count("num_attention_heads", 1, MOST_HEADS)
    positions = values.count("max_position_embeddings", 2, MOST_POSITIONS)  # prompt and answer
    theta, scaling = _rope(values, positions)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=values.count("intermediate_size", 1, MOST_INNER),
        num_hidden_layers=values.count("num_hidden_layers", 1, MOST_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=values.count("num_key_value_heads", 1, heads, heads),
        head_dim=_head_dim(values, hidden_size, heads),
        max_position_embeddings=positions,
        rms_norm_eps=values.number("rms_norm_eps", *EPS_RANGE),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=values.flag("tie_word_embeddings"),
        bos_token_id=values.count("bos_token_id", 0, vocab_size - 1),
        eos_token_ids=_end_ids(values, Values(path.parent / GENERATION, generation), vocab_size),
    )
    _check_plain(values, config.head_dim, positions)
    _check_divisibility(path, config)
    return config


def plain_rope(config: LlamaConfig) -> dict[str, Any]:
    """The rotary embedding's keys in the spelling that every version of transformers reads.

    transformers 4 does not know `rope_parameters`, which transformers 5 writes, and falls back to
    theta 10000 without scaling.
    """
    scaling = config.rope_scaling
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else {"rope_type": "llama3", **asdict(scaling)},
    }


def plain_config(directory: Path, config: LlamaConfig) -> dict[str, Any]:
    """The folder's config.json, with `config`'s values where versions of transformers differ."""
    document = read_json(directory / "config.json")
    document.pop("rope_parameters", None)
    return document | plain_rope(config) | {"tie_word_embeddings": config.tie_word_embeddings}


def _head_dim(values: Values, hidden_size: int, heads: int) -> int:
    if values.document.get("head_dim") is None and hidden_size % heads:
        raise BuildError(
            f"{values.path}: hidden_size is {hidden_size}, but without head_dim must be a multiple "
            f"of num_attention_heads {heads}"
        )
    return values.count("head_dim", 1, MOST_HEAD_DIM, hidden_size // heads)


def _rope(values: Values, positions: int) -> tuple[float, Llama3RopeScaling | None]:
    """Theta and scaling from `rope_scaling` if it has any key, else from `rope_parameters`, else
    from the file's top level: the order of transformers 5."""
    rope = values.part("rope_scaling")
    if not rope.document:
        rope = values.part("rope_parameters")
    if "rope_theta" in rope.document:
        theta = _present(rope, "rope_theta").number("rope_theta", *THETA_RANGE)
    elif "rope_theta" in values.document:
        theta = _present(values, "rope_theta").number("rope_theta", *THETA_RANGE)
    else:
        theta = DEFAULT_THETA
    _check_whole_rotation(values)
    _check_whole_rotation(rope)
    return theta, _scaling(values, rope, positions)


def _present(values: Values, key: str) -> Values:
    """Raise `BuildError` for a null, with which transformers fails."""
    if values.document[key] is None:
        raise values.wrong(key, "a number, or absent")
    return values


def _check_whole_rotation(values: Values) -> None:
    if values.number("partial_rotary_factor", 0, 1, 1.0) != 1:
        raise values.wrong("partial_rotary_factor", "1: a Llama rotates whole heads")


def _scaling(values: Values, rope: Values, positions: int) -> Llama3RopeScaling | None:
    kind = _rope_type(rope)
    if kind == "default":
        return None
    original = "original_max_position_embeddings"
    low = rope.number("low_freq_factor", *FREQ_FACTOR_RANGE)
    high = rope.number("high_freq_factor", *FREQ_FACTOR_RANGE)
    if high <= low:
        raise rope.wrong("high_freq_factor", f"above low_freq_factor {low:g}")
    if original in rope.document and rope.document[original] is None:
        raise rope.wrong(original, f"a whole number from 1 to {MOST_POSITIONS}, or absent")
    length = rope.count(original, 1, MOST_POSITIONS, positions)
    # Versions of transformers differ in which one they take.
    if values.count(original, 1, MOST_POSITIONS, length) != length:
        raise values.wrong(original, f"{length}, as in {rope.inside[:-1]}, or absent")
    factor = rope.number("factor", *FACTOR_RANGE)
    return Llama3RopeScaling(factor, low, high, length)


def _rope_type(rope: Values) -> str:
    """The rope type; raises `BuildError` for one that is not implemented, or two that differ."""
    names = ("rope_type", "type")
    given: dict[str, Any] = {key: rope.document[key] for key in names if key in rope.document}
    for key, kind in given.items():
        if kind not in ("default", "llama3"):
            raise rope.wrong(key, "'llama3' or 'default': no other is implemented")
    if len(set(given.values())) > 1:
        raise rope.wrong("type", f"{given['rope_type']!r}, as rope_type says, or absent")
    for key, inner in rope.document.items():
        if isinstance(inner, dict):
            raise rope.wrong(
                key, "absent: a rotary embedding for each kind of layer is not a Llama's"
            )
    return next(iter(given.values()), "default")


def _end_ids(config: Values, generation: Values, vocab_size: int) -> tuple[int, ...]:
    found: list[int] = []
    for values in (generation, config):
        value = values.document.get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        in_range = all(type(one) is int and 0 <= one < vocab_size for one in ids)
        if not in_range or len(ids) > MOST_END_IDS:
            raise values.wrong(
                "eos_token_id",
                f"a token id below vocab_size {vocab_size}, or a list of up to {MOST_END_IDS}",
            )
        found += ids
    if not found:
        raise config.wrong("eos_token_id", "a token id or a list of them")
    return tuple(dict.fromkeys(found))


def _check_divisibility(path: Path, config: LlamaConfig) -> None:
    rules = {
        "hidden_size": (config.hidden_size, 16),
        "intermediate_size": (config.intermediate_size, 16),
        "num_attention_heads * head_dim": (config.num_attention_heads * config.head_dim, 16),
        "num_attention_heads": (config.num_attention_heads, config.num_key_value_heads),
        "head_dim": (config.head_dim, 2),
    }
    for name, (value, divisor) in rules.items():
        if value % divisor:
            raise BuildError(f"{path}: {name} is {value}, but must be a multiple of {divisor}")


def _check_family(values: Values) -> None:
    """Raise `BuildError` unless this is a Llama that generates text."""
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


def _check_plain(values: Values, head_dim: int, positions: int) -> None:
    """Raise `BuildError` for a key that changes the forward pass of Llama 3.x."""
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
