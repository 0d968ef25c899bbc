"""`engine.json`: every number that a deployment changes, in one typed and validated place.

The build writes the file beside the engine (`build/engines/engine_json.py`); nothing else of a
deployment is configured elsewhere. An unknown, missing or mis-typed key stops the load.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

FORMAT_VERSION = 1
MOST = 2**31 - 1  # tokens, sequences or requests: they are INT32 on the wire
LONGEST_S = 1e9  # thirty years
DEEPEST = 50  # tables within tables, in options that go to a library unread


class EngineConfigError(ValueError):
    """`engine.json` is missing or wrong; the message names the key, its value, what it must be."""


@dataclass(frozen=True)
class ModelFacts:
    """What the checkpoint fixes."""

    name: str
    vocab_size: int
    bos_token_id: int
    eos_token_ids: list[int]  # all of them end a generation
    checkpoint_sha256: str  # of the checkpoint's files, in name order

    def __post_init__(self) -> None:
        _require(self.vocab_size > 0, "model.vocab_size", self.vocab_size, "at least 1")
        _require_at_most(MOST, self, "model", "vocab_size")
        ids = [self.bos_token_id, *self.eos_token_ids]
        for token_id in ids:
            _require(
                0 <= token_id < self.vocab_size, "model token id", token_id, "below vocab_size"
            )
        _require(bool(self.eos_token_ids), "model.eos_token_ids", [], "at least one id")


@dataclass(frozen=True)
class Limits:
    """What one server admits. Tokens, requests and seconds."""

    max_seq_len: int  # prompt and generated tokens together
    max_batch_size: int  # sequences that one forward pass advances
    max_num_tokens: int  # tokens that one forward pass computes (the prefill chunk)
    max_queue_size: int  # requests admitted but not yet in the batch; more are refused
    hang_timeout_s: float = (
        300.0  # the engine restarts after so long without a step while there is work
    )

    def __post_init__(self) -> None:
        for name in ("max_seq_len", "max_batch_size", "max_num_tokens"):
            _require(getattr(self, name) >= 1, f"limits.{name}", getattr(self, name), "at least 1")
        _require(self.max_seq_len >= 2, "limits.max_seq_len", self.max_seq_len, "at least 2")
        _require(
            self.max_queue_size >= 0, "limits.max_queue_size", self.max_queue_size, "0 or more"
        )
        counts = ("max_seq_len", "max_batch_size", "max_num_tokens", "max_queue_size")
        _require_at_most(MOST, self, "limits", *counts)
        _require_at_most(LONGEST_S, self, "limits", "hang_timeout_s")
        _require(self.hang_timeout_s > 0, "limits.hang_timeout_s", self.hang_timeout_s, "above 0")


@dataclass(frozen=True)
class EngineConfig:
    """The whole file. `runtime_options` belongs to the runtime, which validates it."""

    format_version: int
    runtime: str  # a name in token_engine/registry.py
    model: ModelFacts
    limits: Limits
    runtime_options: dict[str, Any] = field(default_factory=dict)
    built_with: dict[str, str] = field(default_factory=dict)  # package -> version
    # The interpreter that runs the engine process, by its absolute path; "": the server's own. For
    # a runtime whose packages clash with the server's (vLLM needs numpy 2).
    engine_python: str = ""


def load_engine_config(engine_directory: Path) -> EngineConfig:
    """Read and validate `engine_directory/engine.json`; raises `EngineConfigError`."""
    path = engine_directory / "engine.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineConfigError(
            f"there is no engine: {path} does not exist; build one with 'make engine'"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineConfigError(
            f"{path} cannot be read ({error}); rebuild it with 'make engine'"
        ) from error
    try:
        config = parse_section(EngineConfig, document, "engine.json")
    except EngineConfigError as error:
        raise EngineConfigError(f"{path}: {error}") from None
    if config.format_version != FORMAT_VERSION:
        raise EngineConfigError(
            f"{path} has format_version {config.format_version} and must be {FORMAT_VERSION}; "
            "rebuild the engine with 'make engine'"
        )
    return config


Section = TypeVar("Section")


def parse_section(section: type[Section], document: object, where: str) -> Section:
    """Build the dataclass `section` from JSON; every key is checked against its type hint."""
    if not isinstance(document, dict):
        _require_plain(document, where)
        raise EngineConfigError(f"{where} is {document!r} and must be an object")
    hints = get_type_hints(section)
    fields = {f.name: f for f in dataclasses.fields(section)}  # type: ignore[arg-type]
    for key in document:
        if key not in fields:
            raise EngineConfigError(f"{where} has the unknown key {key!r}; {_known(key, fields)}")
    values = {}
    for name, spec in fields.items():
        if name in document:
            values[name] = _checked(document[name], hints[name], f"{where}: {name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise EngineConfigError(f"{where} lacks the key {name!r}")
    return section(**values)


def _known(key: str, names: Iterable[str]) -> str:
    """The known keys, and before them the one that was probably meant."""
    names = list(names)
    nearest = difflib.get_close_matches(key, names, n=1)
    meant = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{meant}known are {', '.join(names)}"


def _checked(value: object, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return parse_section(hint, value, where)  # type: ignore[arg-type]
    _require_plain(value, where)
    if hint is float and type(value) is int:
        return float(value)
    kind = get_origin(hint) or hint
    if type(value) is not kind:
        raise EngineConfigError(f"{where} is {value!r} and must be a JSON {kind.__name__}")
    if kind is list and any(type(item) is not get_args(hint)[0] for item in value):  # type: ignore[attr-defined]
        raise EngineConfigError(
            f"{where} is {value!r} and must be a list of {get_args(hint)[0].__name__}"
        )
    return value


def _require_plain(value: object, where: str) -> None:
    """Refuse what JSON, a file's name or a library chokes on, at any depth: TOML's NaN and dates,
    JSON's lone surrogates, and numbers without bounds."""
    parts: list[tuple[object, int]] = [(value, 0)]
    while parts:
        part, depth = parts.pop()
        if isinstance(part, (dict, list)):
            if depth == DEEPEST:
                raise EngineConfigError(f"{where} is nested and must have at most {DEEPEST} levels")
            inner = [*part, *part.values()] if isinstance(part, dict) else part
            parts += [(one, depth + 1) for one in inner]
        elif isinstance(part, int) and part.bit_length() > 64:  # too long a number to be shown
            raise EngineConfigError(
                f"{where} has a number of {part.bit_length()} bits and must have at most 64"
            )
        elif needed := _needed_instead(part):
            raise EngineConfigError(f"{where} has {part!r:.60} and must be {needed}")


def _needed_instead(part: object) -> str:
    """What a value must be instead; "" if it may stay."""
    if isinstance(part, str):
        plain = "\0" not in part and not any("\ud800" <= letter <= "\udfff" for letter in part)
        return "" if plain else "text without NUL and lone surrogates"
    if isinstance(part, float):
        return "" if math.isfinite(part) else "a finite number"
    return "" if part is None or isinstance(part, int) else "what JSON can say"


def _require(condition: bool, name: str, value: object, needed: str) -> None:
    if not condition:
        raise EngineConfigError(f"{name} is {value!r} and must be {needed}")


def _require_at_most(most: float, section: object, where: str, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _require(value <= most, f"{where}.{name}", value, f"at most {most:.10g}")
