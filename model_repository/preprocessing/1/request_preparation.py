"""Room 1: a raw prompt or chat messages -> the token ids of a prompt that fits the engine.

It knows the tokenizer, the chat template and the engine's limits, and no engine. Every refusal
is one sentence that names the input, its value and what is allowed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from chat_template import ChatTemplate, InvalidMessages, parse_messages
from prompt_encoder import PromptEncoder

JSON_ESCAPE = 6  # bytes that JSON may spend on one byte of text: "\\u0041" is "A"


class InvalidPrompt(ValueError):
    """The caller's mistake; answered with INVALID_ARG."""


class PreparationError(RuntimeError):
    """The room has no usable tokenizer; the message names the file and the command to run."""


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """What the engine's room needs of a prompt."""

    token_ids: list[int]
    max_tokens: int


class RequestPreparation:
    """Reads engine.json, tokenizer.json and tokenizer_config.json from one directory."""

    def __init__(self, directory: Path) -> None:
        try:
            config = json.loads((directory / "engine.json").read_text(encoding="utf-8"))
            self._max_seq_len = int(config["limits"]["max_seq_len"])
            self._encoder = PromptEncoder(
                directory / "tokenizer.json", int(config["model"]["bos_token_id"])
            )
            self._template = ChatTemplate(directory / "tokenizer_config.json")
        except Exception as error:  # tokenizers raises bare Exception
            raise PreparationError(
                f"the tokenizer in {directory} cannot be read ({error}); "
                "build it with 'make engine'"
            ) from error

    def prepare(
        self, query: bytes | None, messages: bytes | None, max_tokens: int | None | None
    ) -> PreparedPrompt:
        """Encode `query` (a trusted raw prompt) or `messages` (JSON); exactly one must be given."""
        if max_tokens is None:
            raise InvalidPrompt("max_tokens is missing, it is required")
        if max_tokens < 1:
            raise InvalidPrompt(f"max_tokens is {max_tokens}, allowed is at least 1")
        if (query is None) == (messages is None):
            count = "neither" if query is None else "both"
            raise InvalidPrompt(
                f"{count} of text_input and messages is given, allowed is exactly one"
            )
        if messages is not None:
            ids = self._encode_messages(self._text(messages, "messages"))
        else:
            assert query is not None
            text = self._text(query, "text_input")
            if not text:
                raise InvalidPrompt("text_input is empty, allowed is at least one character")
            ids = self._encoder.encode_trusted(text)
        self._check_length(len(ids), max_tokens)
        return PreparedPrompt(ids, max_tokens)

    def _encode_messages(self, document: str) -> list[int]:
        try:
            return self._encoder.encode_pieces(self._template.render(parse_messages(document)))
        except InvalidMessages as error:
            raise InvalidPrompt(str(error)) from None

    def _text(self, data: bytes, name: str) -> str:
        at_least = len(data) // (JSON_ESCAPE * self._encoder.longest_token)
        if at_least > self._max_seq_len:  # refused before the cost of encoding it
            raise InvalidPrompt(
                f"{name} has {len(data)} bytes, allowed is what {self._max_seq_len} tokens can hold"
            )
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidPrompt(
                f"{name} has the byte 0x{data[error.start]:02x} at {error.start}, allowed is UTF-8"
            ) from None

    def _check_length(self, prompt_tokens: int, max_tokens: int) -> None:
        total = prompt_tokens + max_tokens
        if total > self._max_seq_len:
            raise InvalidPrompt(
                f"the prompt of {prompt_tokens} tokens and max_tokens {max_tokens} make {total}, "
                f"allowed are {self._max_seq_len} together"
            )
