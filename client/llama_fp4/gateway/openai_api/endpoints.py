"""What each endpoint that generates needs, and what they do alike."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response

from llama_fp4.answers import Chunk
from llama_fp4.gateway.backend import Backend
from llama_fp4.gateway.errors import ApiError, wrong
from llama_fp4.gateway.exchange import DONE, Call, EventStream, error_event
from llama_fp4.gateway.gate import GatewayState
from llama_fp4.gateway.generation import Generation, Usage, Work
from llama_fp4.gateway.openai_api.answers import as_json, usage_json
from llama_fp4.gateway.settings import GatewaySettings
from llama_fp4.model_contract import Prompt


class ChoiceWriter(Protocol):
    """Writes the events of one choice of a stream."""

    def events(self, chunk: Chunk) -> bytes:
        """Empty for a chunk that says nothing."""


@dataclass(frozen=True)
class Context:
    """One worker's: made at its start, given to every endpoint."""

    settings: GatewaySettings
    state: GatewayState
    backend: Backend

    def check_model(self, name: str) -> None:
        """Raises 404 for a model that is not served here."""
        served = self.settings.served_names
        if name not in served:
            raise ApiError(
                404,
                f"the model must be one of {', '.join(served)}, not {name[:60]!r}",
                "model",
                "model_not_found",
            )

    async def fitted(
        self, asked: int | None, prompts: Sequence[Prompt], tools: Sequence[Any] = ()
    ) -> int | None:
        """The limit of an answer, within the gateway's own; None: as many tokens as fit.

        Raises `ApiError` and `LlamaError`.
        """
        most = self.settings.max_tokens
        if most is None:
            return asked
        if asked is None:
            rooms = [(await self.backend.tokenize(prompt, tools)).room for prompt in prompts]
            return min(most, *rooms)
        if asked > most:
            raise wrong("max_tokens", f"max_tokens must be at most {most}, not {asked}")
        return asked

    def count(self, usage: Usage) -> None:
        """Add an answer's tokens to the metrics."""
        self.state.metrics.prompt_tokens.inc(usage.prompt)
        self.state.metrics.completion_tokens.inc(usage.completion)

    def head(self, call: Call, prefix: str, kind: str) -> dict[str, Any]:
        """The first members of a chat's or completion's document."""
        return {
            "id": f"{prefix}-{call.own_id}",
            "object": kind,
            "created": call.created,
            "model": self.settings.served_names[0],
        }

    async def whole(self, work: Work) -> tuple[list[list[Chunk]], Usage]:
        """The chunks of each answer, when all have ended."""
        chunks: list[list[Chunk]] = [[] for _ in range(work.answers)]
        async with Generation(self.backend, work) as generation:
            while arrived := await generation.arrived():
                for index, chunk in arrived:
                    chunks[index].append(chunk)
        self.count(generation.usage)
        return chunks, generation.usage

    async def events(
        self, work: Work, choices: Sequence[ChoiceWriter], head: bytes, with_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """The events of a chat or completion: one value for all chunks that have come together."""
        async with Generation(self.backend, work) as generation:
            while arrived := await generation.arrived():
                data = b"".join([choices[index].events(chunk) for index, chunk in arrived])
                if data:
                    yield data
        self.count(generation.usage)
        if with_usage:
            tail = as_json({"choices": [], "usage": usage_json(generation.usage)})
            yield b"data: " + head + b"," + tail[1:] + b"\n\n"
        yield DONE

    async def streamed(
        self,
        events: AsyncGenerator[bytes, None],
        since: float,
        of_error: Callable[[ApiError], bytes] = error_event,
    ) -> Response:
        """The stream once its first event has come."""
        answer = await EventStream.begun(events, of_error)
        self.state.metrics.ttft.observe(time.perf_counter() - since)
        return answer


def json_response(document: object) -> Response:
    """An answer in JSON."""
    return Response(as_json(document), media_type="application/json")
