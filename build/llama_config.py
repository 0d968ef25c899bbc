"""A Llama 3.x checkpoint's `config.json` and `generation_config.json`, read into typed facts.

Both spellings of the rotary embedding are read: `rope_theta` + `rope_scaling` (transformers 4) and
`rope_parameters` (transformers 5). A key that would change the mathematics and that the engine
does not implement stops the build.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_console import BuildError


@dataclass(frozen=True)
class Llama3RopeScaling:
    """The `llama3` rope type: low frequencies are slowed for contexts beyond the original."""

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
    eos_token_ids: tuple[int, ...]  # of config.json and generation_config.json together

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that the KV cache holds for one token, over all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `BuildError` if it is missing, damaged or no object."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BuildError(
            f"{path} does not exist; fetch the whole checkpoint into {path.parent}"
        ) from None
    except ValueError as error:
        raise BuildError(f"{path} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(document, dict):
        raise BuildError(f"{path} is no JSON object; fetch it again")
    return document


def load_llama_config(directory: Path) -> LlamaConfig:
    """Read the checkpoint's configuration; raises `BuildError` naming key and allowed values."""
    path = directory / "config.json"
    generation = directory / "generation_config.json"
    return parse_llama_config(
        path, read_json(path), read_json(generation) if generation.exists() else {}
    )


def parse_llama_config(
    path: Path, document: dict[str, Any], generation: dict[str, Any]
) -> LlamaConfig:
    """Check the two files' content; `path` is for the messages. Raises `BuildError`."""
    reader = _Keys(path, document)
    _check_architecture(reader)
    hidden_size = reader.count("hidden_size")
    heads = reader.count("num_attention_heads")
    config = LlamaConfig(
        vocab_size=reader.count("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=reader.count("intermediate_size"),
        num_hidden_layers=reader.count("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=reader.count("num_key_value_heads", heads),
        head_dim=reader.count("head_dim", hidden_size // heads),
        max_position_embeddings=reader.count("max_position_embeddings"),
        rms_norm_eps=reader.number("rms_norm_eps"),
        rope_theta=_rope(reader).number("rope_theta"),
        rope_scaling=_rope_scaling(_rope(reader)),
        tie_word_embeddings=bool(reader.document.get("tie_word_embeddings", False)),
        bos_token_id=reader.count("bos_token_id", minimum=0),
        eos_token_ids=_eos_token_ids(reader, generation),
    )
    _check_divisibility(path, config)
    return config


@dataclass(frozen=True)
class _Keys:
    path: Path
    document: dict[str, Any]

    def count(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        value = self.document.get(key)
        value = default if value is None else value
        if type(value) is not int or value < minimum:
            raise self.wrong(key, f"a whole number of at least {minimum}")
        return value

    def number(self, key: str) -> float:
        value = self.document.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise self.wrong(key, "a number above 0")
        return float(value)

    def wrong(self, key: str, allowed: str) -> BuildError:
        return BuildError(
            f"{self.path}: {key} is {self.document.get(key)!r}, allowed is {allowed}; "
            "give a Llama 3.x checkpoint"
        )


def _check_architecture(reader: _Keys) -> None:
    fixed: dict[str, tuple[Any, ...]] = {
        "model_type": ("llama",),
        "hidden_act": ("silu", None),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
    }
    for key, allowed in fixed.items():
        if reader.document.get(key) not in allowed:
            raise reader.wrong(key, repr(allowed[0]))


def _rope(reader: _Keys) -> _Keys:
    """The rotary embedding's keys in one place, whichever spelling the file has."""
    parameters = reader.document.get("rope_parameters")
    if parameters is None:
        scaling = reader.document.get("rope_scaling") or {}
        parameters = {"rope_theta": reader.document.get("rope_theta", 10000.0), **scaling}
    if not isinstance(parameters, dict):
        raise reader.wrong("rope_parameters", "an object")
    return _Keys(reader.path, parameters)


def _rope_scaling(rope: _Keys) -> Llama3RopeScaling | None:
    kind = rope.document.get("rope_type", rope.document.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise BuildError(f"{rope.path}: rope_type is {kind!r}, allowed is 'llama3' or 'default'")
    return Llama3RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_max_position_embeddings=rope.count("original_max_position_embeddings"),
    )


def _eos_token_ids(reader: _Keys, generation: dict[str, Any]) -> tuple[int, ...]:
    found: list[Any] = []
    for document in (generation, reader.document):
        value = document.get("eos_token_id")
        found += value if isinstance(value, list) else [] if value is None else [value]
    if not found or any(type(token_id) is not int or token_id < 0 for token_id in found):
        raise reader.wrong("eos_token_id", "a token id or a list of them")
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
            raise BuildError(f"{path}: {name} is {value}, allowed is a multiple of {divisor}")
    for token_id in (config.bos_token_id, *config.eos_token_ids):
        if token_id >= config.vocab_size:
            raise BuildError(
                f"{path}: token id {token_id} is outside vocab_size {config.vocab_size}"
            )
