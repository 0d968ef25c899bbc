"""The load test's one door to the client library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from llama_fp4 import Chunk, Client, LlamaError
from workloads import Turn

INVALID = "INVALID_ARGUMENT"
Messages = Sequence[dict[str, str]]


def open_client(url: str, model: str) -> Client:
    """Opens a channel: never before a process is forked."""
    return Client(url, model=model)


@contextlib.contextmanager
def open_stream(client: Client, turn: Turn, history: Messages, request_id: str) -> Iterator[Any]:
    """The request's chunks; leaving the block cancels what still runs."""
    prompt: Any = list(history) if history else turn.prompt
    chunks = client.stream(prompt, max_tokens=turn.max_tokens, **turn.options)
    try:
        yield chunks
    finally:
        chunks.close()  # type: ignore[attr-defined]


def first_request(client: Client) -> str:
    """Ask for one token; returns "" or the sentence that says why there is none."""
    try:
        client.generate("Hello", max_tokens=1)
    except LlamaError as error:
        return f"{error} ({error.code})" if error.code else str(error)
    return ""


def error_class(error: BaseException) -> str:
    """How failures are counted: the status of the server's, the type of others."""
    return error.code if isinstance(error, LlamaError) and error.code else type(error).__name__


__all__ = ["INVALID", "Chunk", "Client", "LlamaError", "error_class", "first_request"]
