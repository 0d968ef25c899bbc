"""Recorded traffic: one JSON object a line, replayed at its own times.

Fields: `at` (seconds) or `timestamp` (milliseconds, as in published traces); `prompt` (raw text),
`messages` (a chat's), or `input_length` (tokens of synthetic text); `max_tokens` or
`output_length`; `options` (of the client, an object).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traffic.mix import REPLAY
from traffic.prompts import MOST_TOKENS, PromptWriter
from traffic.workloads import NOT_OPTIONS, Conversation, Turn, Workload

DEFAULT_MAX_TOKENS = 128
FIELDS = (
    "at",
    "timestamp",
    "prompt",
    "messages",
    "input_length",
    "max_tokens",
    "output_length",
    "options",
    "hash_ids",
)


class ReplayError(ValueError):
    """The file cannot be replayed; one sentence names the file, the line and what must be there."""


@dataclass(frozen=True)
class Recording:
    """`times` in seconds from the first request on, in order; `lines` beside them."""

    times: tuple[float, ...]
    lines: tuple[Mapping[str, Any], ...]


def read_recording(path: Path) -> Recording:
    """Raises `ReplayError`."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ReplayError(f"the replay file {path} cannot be read: {error}") from error
    entries = [
        _entry(path, number, line)
        # Not splitlines: JSON strings may contain U+2028 and other Unicode line ends.
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not entries:
        raise ReplayError(f"the replay file {path} must have one JSON object a line, and has none")
    entries.sort(key=lambda entry: entry[0])
    start = entries[0][0]
    return Recording(
        tuple(at - start for at, _ in entries), tuple(document for _, document in entries)
    )


def left_out(recorded: int, sent: int, warmup: int) -> str:
    """The sentence on recorded requests that are in no figure, or ""."""
    told = [f"{recorded - sent:,} were not sent before the load ended"] if sent < recorded else []
    told += [f"{warmup:,} were sent in the warm-up and are in no figure"] if warmup else []
    return f"of the recording's {recorded:,} requests, {' and '.join(told)}" if told else ""


def replay_workload(
    recording: Recording, writer: PromptWriter, seed: int, scope: str = ""
) -> Workload:
    """The recorded requests in order; after the last the first follows again."""

    def make(index: int, generator: random.Random) -> Conversation:
        line = recording.lines[index]
        prompt = line.get("prompt", "")
        if "input_length" in line:
            prompt = writer.prompt(int(line["input_length"]), generator)
        turn = Turn(
            key=f"{index}",
            prompt=prompt,
            messages=tuple(line.get("messages", ())),
            max_tokens=int(line.get("max_tokens", line.get("output_length", DEFAULT_MAX_TOKENS))),
            options=dict(line.get("options", {})),
        )
        return Conversation((turn,))

    return Workload(REPLAY, seed, len(recording.lines), make, in_order=True, scope=scope)


def _entry(path: Path, number: int, line: str) -> tuple[float, Mapping[str, Any]]:
    where = f"line {number} of the replay file {path}"
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ReplayError(f"{where} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ReplayError(f"{where} must be an object, not {str(document)[:40]!r}")
    if unknown := sorted(set(document) - set(FIELDS)):
        raise ReplayError(
            f"{where} must have fields of {', '.join(FIELDS[:-1])}, not {unknown[0]!r}"
        )
    texts = [name for name in ("prompt", "messages", "input_length") if name in document]
    if len(texts) != 1:
        given = " and ".join(texts) or "none"
        raise ReplayError(
            f"{where} must have exactly one of prompt, messages and input_length, not {given}"
        )
    for names in (("at", "timestamp"), ("max_tokens", "output_length")):
        if all(name in document for name in names):
            raise ReplayError(f"{where} must have one of {' and '.join(names)}, not both")
    _check_types(where, document)
    if "timestamp" in document:
        return document["timestamp"] / 1e3, document
    return float(document.get("at", 0.0)), document


def _check_types(where: str, document: Mapping[str, Any]) -> None:
    for name in ("at", "timestamp"):
        value = document.get(name, 0)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value <= sys.float_info.max  # JSON allows integers above it
        ):
            raise ReplayError(f"{where}: {name} must be a number from 0 on, not {value!r:.40}")
    for name in ("input_length", "max_tokens", "output_length"):
        value = document.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ReplayError(f"{where}: {name} must be a whole number from 1 on, not {value!r}")
    if document.get("input_length", 1) > MOST_TOKENS:
        raise ReplayError(
            f"{where}: input_length must be at most {MOST_TOKENS:,}, not {document['input_length']}"
        )
    for name, kind in (("prompt", str), ("messages", list), ("options", dict)):
        if name in document and not isinstance(document[name], kind):
            raise ReplayError(f"{where}: {name} must be a {kind.__name__}, not {document[name]!r}")
    if taken := sorted(set(document.get("options", {})) & set(NOT_OPTIONS)):
        raise ReplayError(f"{where} has the option {taken[0]!r}, which is a field, not an option")
    messages = document.get("messages", [{}])
    if not messages or not all(isinstance(each, dict) for each in messages):
        raise ReplayError(
            f"{where}: messages must be a list of objects with role and content, not "
            f"{str(messages)[:40]}"
        )
