"""The reference file: the dequantized checkpoint's answers to a set of prompts, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from host.console import BuildError
from host.output_folder import write_whole_file

FORMAT_VERSION = 1
# (token id, natural logarithm of its probability) of the likeliest tokens, best first
Top = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class PromptReference:
    """A prompt and its greedy continuation, up to and including an end token."""

    name: str
    messages: list[dict[str, str]] | None
    prompt: str  # the text; a chat's is rendered by the template
    prompt_ids: list[int]
    top: list[Top]  # one for each token of the continuation, whose first entry is that token
    text: str  # of the continuation, without special tokens

    @property
    def tokens(self) -> list[int]:
        """The greedy continuation."""
        return [likeliest[0][0] for likeliest in self.top]

    def margin(self, position: int) -> float:
        """By how much the chosen token's log-probability exceeds the second's."""
        (_, first), (_, second) = self.top[position][:2]
        return first - second


@dataclass(frozen=True)
class Reference:
    """The whole file."""

    checkpoint: str  # the folder's name
    checkpoint_sha256: str  # as in engine.json
    vocab_size: int
    eos_token_ids: list[int]
    dated_template: bool  # the chats' prompts hold the day on which the file was made
    made_with: dict[str, str]
    prompts: list[PromptReference]
    format_version: int = FORMAT_VERSION


def write_reference(path: Path, reference: Reference) -> None:
    """Write the file whole or not at all; a line for each prompt."""
    document = asdict(reference)
    prompts = [json.dumps(prompt, ensure_ascii=False) for prompt in document.pop("prompts")]
    head = json.dumps(document, indent=1, ensure_ascii=False).removesuffix("\n}")
    write_whole_file(path, head + ',\n "prompts": [\n' + ",\n".join(prompts) + "\n]}\n")


def read_reference(path: Path) -> Reference:
    """Read the file; raises `BuildError` with what is wrong and how to make it."""
    make = f"make it with 'build/make_reference.py --checkpoint DIR --output {path}'"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"format_version must be {FORMAT_VERSION}, not {document['format_version']}"
            )
        reference = _reference(document)
    except FileNotFoundError:
        raise BuildError(f"the reference {path} does not exist; {make}") from None
    except KeyError as error:
        raise BuildError(f"{path} is not a reference file: it lacks {error}; {make}") from None
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise BuildError(f"{path} is not a reference file ({error}); {make}") from None
    if not reference.prompts:
        raise BuildError(f"{path} holds no prompts; {make}")
    return reference


def _reference(document: dict[str, Any]) -> Reference:
    prompts = [_prompt(entry) for entry in document["prompts"]]
    eos_ids = [int(token_id) for token_id in document["eos_token_ids"]]
    vocab_size = int(document["vocab_size"])
    found = {**document, "prompts": prompts, "eos_token_ids": eos_ids, "vocab_size": vocab_size}
    return Reference(**found)


def _prompt(entry: dict[str, Any]) -> PromptReference:
    ids = [int(token_id) for token_id in entry["prompt_ids"]]
    top = [as_top(likeliest) for likeliest in entry["top"]]
    if not top or min(map(len, top)) < 2:
        raise ValueError(f"the prompt {entry['name']!r} has no tokens, or one without a second")
    return PromptReference(**{**entry, "prompt_ids": ids, "top": top})


def as_top(entries: Sequence[Sequence[float]]) -> Top:
    """From JSON, where a pair is a list."""
    return tuple((int(token_id), float(logprob)) for token_id, logprob in entries)
