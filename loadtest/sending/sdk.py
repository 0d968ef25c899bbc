"""The only module that imports the client library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_fp4 import AsyncClient as Client
from llama_fp4 import AsyncStream, InvalidRequest, LlamaError, Retries
from llama_fp4.transports.choose import metrics_url
from traffic.workloads import Turn

Messages = Sequence[Mapping[str, str]]


def open_client(url: str, model: str) -> Client:
    """A client without retries; it sends nothing yet."""
    return Client(url, model=model, retries=Retries(attempts=1), token_ids=False)


def open_stream(client: Client, turn: Turn, history: Messages, request_id: str) -> AsyncStream:
    """A stream that sends its request on entering the block; leaving early cancels it."""
    prompt: Any = list(history) if history else turn.prompt
    more: dict[str, Any] = {"stream": True, **turn.options}
    return client.stream(prompt, max_tokens=turn.max_tokens, request_id=request_id, **more)


async def first_request(client: Client, options: Mapping[str, Any]) -> str:
    """Ask for one token with the run's sampling; returns "" or why that failed, one sentence."""
    asked = {name: value for name, value in options.items() if name != "min_tokens"}
    try:
        await client.generate("Hello", max_tokens=1, **asked)
    except LlamaError as error:
        return f"{error} ({type(error).__name__})"
    return ""


async def server_version(client: Client) -> str:
    """As "triton 2.51.0"; "" if the server does not say."""
    try:
        server = await client.server()
    except LlamaError:
        return ""
    return f"{server.name} {server.version}".strip()


def is_refusal(error: BaseException) -> bool:
    """Whether the server, or the client, refused the request as invalid."""
    return isinstance(error, InvalidRequest)


def error_class(error: BaseException) -> str:
    """How failures are counted."""
    return type(error).__name__


__all__ = [
    "Client",
    "error_class",
    "first_request",
    "is_refusal",
    "metrics_url",
    "open_client",
    "open_stream",
    "server_version",
]
