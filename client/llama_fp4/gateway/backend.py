"""The Triton server behind the gateway: generations, the tokenizer's rooms, health, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_fp4 import AsyncClient, Retries
from llama_fp4.async_stream import AsyncStream
from llama_fp4.cli.inspect_server import fetch
from llama_fp4.errors import LlamaError, UnsupportedRequest
from llama_fp4.gateway.settings import GatewaySettings
from llama_fp4.model_contract import Prompt, Request, Tensor
from llama_fp4.sampling import SamplingParams, as_json
from llama_fp4.settings import Keepalive
from llama_fp4.transports.choose import open_transport

HEALTH_S = 2.0
METRICS_S = 2.0
PREPROCESSING, POSTPROCESSING = "preprocessing", "postprocessing"


@dataclass(frozen=True)
class Tokens:
    """A prompt as the server encodes it, and how many tokens an answer to it may have."""

    ids: tuple[int, ...]
    room: int

    @property
    def max_model_len(self) -> int:
        """Tokens that prompt and answer may have together."""
        return len(self.ids) + self.room


class Backend:
    """Belongs to the event loop in which it is made."""

    def __init__(self, settings: GatewaySettings) -> None:
        server = settings.server
        arguments = server.arguments()
        timeouts = arguments["timeouts"]
        self._limit_s = timeouts.total or timeouts.connect
        self._transport: Any = open_transport(
            server.url, True, server.tls, server.headers, Keepalive(), timeouts.connect
        )
        # The client behind the gateway decides whether to try again.
        self.client = AsyncClient(
            server.url,
            server.model,
            transport=self._transport,
            timeouts=timeouts,
            retries=Retries(attempts=1),
            token_ids=False,
        )
        self._settings = settings

    def stream(
        self, prompt: Prompt, params: SamplingParams, request_id: str, stream: bool
    ) -> AsyncStream:
        """One answer; without `stream` it comes in one chunk."""
        streamed = True if stream else None
        return self.client.stream(prompt, params, request_id=request_id, stream=streamed)

    async def is_ready(self) -> bool:
        """Whether the model behind can be called."""
        return await self.client.is_ready(HEALTH_S)

    async def tokenize(self, prompt: Prompt, tools: Sequence[Any] = ()) -> Tokens:
        """The token ids of text or messages. Raises `LlamaError`."""
        named = "QUERY" if isinstance(prompt, str) else "MESSAGES"
        text = prompt if isinstance(prompt, str) else as_json(list(prompt))
        tensors = [Tensor(named, "BYTES", (1, 1), [text])]
        if tools:
            tensors.append(Tensor("TOOLS", "BYTES", (1, 1), [as_json(list(tools))]))
        wanted = ("INPUT_ID", "REQUEST_OUTPUT_LEN")
        found = await self._infer(PREPROCESSING, tuple(tensors), wanted)
        ids = tuple(memoryview(found["INPUT_ID"]).cast("i"))
        return Tokens(ids, int.from_bytes(found["REQUEST_OUTPUT_LEN"][:4], "little"))

    async def detokenize(self, ids: Sequence[int], keep_special: bool = True) -> str:
        """The text of token ids. Raises `LlamaError`."""
        tensors = (
            Tensor("TOKENS_BATCH", "INT32", (1, 1, len(ids)), ids),
            Tensor("SEQUENCE_LENGTH", "INT32", (1, 1), [len(ids)]),
            Tensor("TEXT_KEEP_SPECIAL", "BOOL", (1, 1), [keep_special]),
        )
        found = await self._infer(POSTPROCESSING, tensors, ("OUTPUT",))
        data = found["OUTPUT"]
        (size,) = struct.unpack_from("<I", data)
        return data[4 : 4 + size].decode()

    async def metrics(self) -> str:
        """The text of Triton's own metrics; "" if it has none."""
        with contextlib.suppress(LlamaError):
            url, server = self._settings.metrics_url, self._settings.server
            return await asyncio.to_thread(fetch, url, METRICS_S, server)
        return ""

    async def close(self) -> None:
        """Wait for the cancellations that are under way, then close the connection."""
        await self.client.close()

    async def _infer(
        self, model: str, tensors: tuple[Tensor, ...], outputs: tuple[str, ...]
    ) -> dict[str, bytes]:
        if not hasattr(self._transport, "infer"):
            raise UnsupportedRequest("the gateway must reach its server over gRPC for this")
        request = Request(model, "", tensors, {}, outputs)
        found: dict[str, bytes] = await self._transport.infer(request, self._limit_s)
        return found
