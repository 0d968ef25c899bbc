"""A checkpoint's JSON files: read whole, then value by value, each checked for type and range.

Python's json accepts what other readers of the same file refuse or read differently: NaN and
Infinity, repeated keys, unbounded integers. `read_json` refuses them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.console import BuildError

DEEPEST = 64  # objects and lists within each other
# A double's range. transformers itself writes model_max_length 10**30 into tokenizer_config.json.
LARGEST_BITS = 1024
LONGEST_SHOWN = 60  # characters of a value in a sentence
LFS_POINTER = b"version https://git-lfs"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MEND = "correct it, or fetch it again"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `BuildError` if it is missing, damaged or no object, or holds
    numbers that are not finite or larger than any double."""
    try:
        content = path.read_bytes()
        if content.startswith(BYTE_ORDER_MARK):
            raise BuildError(
                f"{path} begins with a byte order mark, which JSON must not have; save it as UTF-8 "
                "without one"
            )
        if content.startswith(LFS_POINTER):
            raise BuildError(
                f"{path} is a git LFS pointer, not the file; run 'git lfs pull' in {path.parent}"
            )
        document = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repeats)
    except FileNotFoundError:
        raise BuildError(
            f"{path} does not exist; fetch the whole checkpoint into {path.parent}"
        ) from None
    except RecursionError:
        raise BuildError(
            f"{path} is nested deeper than {DEEPEST} levels, as no checkpoint's file is; {MEND}"
        ) from None
    except ValueError as error:
        raise BuildError(f"{path} is not valid JSON ({error}); {MEND}") from error
    if not isinstance(document, dict):
        raise BuildError(f"{path} is {shown(document)}, but must be a JSON object; {MEND}")
    _check_numbers(path, document)
    return document


def shown(value: object) -> str:
    """A value as JSON writes it, short enough for a sentence."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


@dataclass(frozen=True)
class Values:
    """The keys of one object in a file; `inside` names the object, "" the whole file."""

    path: Path
    document: dict[str, Any]
    inside: str = ""

    def count(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """An integer in that range; raises `BuildError`."""
        value = self._value(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, least: float, most: float, default: float | None = None) -> float:
        """A finite number in that range; raises `BuildError`."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not least <= value <= most:  # NaN is in no range
            raise self.wrong(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; raises `BuildError` for anything else, null too."""
        value = self.document.get(key, default)
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str = "") -> str:
        """A string; null stands for the default. Raises `BuildError`."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings; null stands for an empty one. Raises `BuildError`."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of strings")
        return value

    def part(self, key: str) -> Values:
        """The object under `key`, an empty one where there is none; raises `BuildError`."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Values(self.path, value, f"{self.inside}{key}.")

    def wrong(self, key: str, must_be: str) -> BuildError:
        """An error that names file, key, value, and what the value must be."""
        if key not in self.document:
            return BuildError(f"{self.path} has no {self.inside}{key}, which must be {must_be}")
        value = shown(self.document[key])
        return BuildError(f"{self.path}: {self.inside}{key} is {value}, but must be {must_be}")

    def _value(self, key: str, default: Any) -> Any:
        value = self.document.get(key)
        return default if value is None else value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key with two values: some readers take the first, others the last."""
    document = dict(pairs)
    if len(document) < len(pairs):
        for key, value in pairs:
            if value != document[key]:
                raise ValueError(
                    f"the key {key!r} appears twice, as {shown(value)} and {shown(document[key])}"
                )
    return document


def _check_numbers(path: Path, document: dict[str, Any]) -> None:
    parts: list[tuple[str, Any, int]] = [("", document, 1)]
    while parts:
        name, part, depth = parts.pop()
        if depth > DEEPEST:
            raise BuildError(
                f"{path}: {name[:LONGEST_SHOWN]} is nested deeper than {DEEPEST} levels, as in no "
                f"checkpoint's file; {MEND}"
            )
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in items:
            if type(value) is float and not math.isfinite(value):
                raise BuildError(
                    f"{path}: {name}{key} is {shown(value)}, but must be a finite number; {MEND}"
                )
            if type(value) is int and value.bit_length() > LARGEST_BITS:
                raise BuildError(
                    f"{path}: {name}{key} is a number of {value.bit_length()} bits, but must have "
                    f"at most {LARGEST_BITS}; {MEND}"
                )
            if isinstance(value, (dict, list)):
                parts.append((f"{name}{key}.", value, depth + 1))
