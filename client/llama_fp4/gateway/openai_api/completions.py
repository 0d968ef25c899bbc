"""`/v1/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.responses import Response

from llama_fp4.answers import Chunk
from llama_fp4.errors import LlamaError
from llama_fp4.gateway.errors import wrong
from llama_fp4.gateway.exchange import Call
from llama_fp4.gateway.generation import Work
from llama_fp4.gateway.openai_api.answers import (
    as_json,
    finish_reason,
    quoted,
    token_logprobs,
    usage_json,
)
from llama_fp4.gateway.openai_api.completion_request import CompletionRequest
from llama_fp4.gateway.openai_api.endpoints import Context, json_response
from llama_fp4.gateway.openai_api.fields import parse
from llama_fp4.gateway.openai_api.sampling import guide_of, sampling_params, translated
from llama_fp4.gateway.openai_api.tools import under_guides
from llama_fp4.gateway.tool_calls import ToolUse

KIND = ("cmpl", "text_completion")  # of the id, and of the object


async def answer_completion(context: Context, call: Call) -> Response:
    """The answer to one POST. Raises `ApiError` and `LlamaError`."""
    started = time.perf_counter()
    request = parse(CompletionRequest, call.body)
    context.check_model(request.model)
    if request.echo and request.logprobs is not None:
        raise wrong("echo", "echo with logprobs is not served yet", "unsupported_parameter")
    guide = guide_of(request)

    async def answered(work: Work) -> Response:
        if request.stream:
            events = _events(context, call, request, work)
            return await context.streamed(events, started)
        return await _whole(context, call, request, work)

    try:
        most = await context.fitted(request.max_tokens, request.prompt)
        params = sampling_params(request, most, request.logprobs)
        stream = bool(request.stream)
        work = Work(request.prompt, params, request.n or 1, call.server_id, stream)
        return await under_guides(request, ToolUse(), (guide,), work, answered)
    except LlamaError as error:
        raise translated(error, request) from None


async def _whole(context: Context, call: Call, request: CompletionRequest, work: Work) -> Response:
    chunks, usage = await context.whole(work)
    document = context.head(call, *KIND)
    document["choices"] = [_choice(index, each, request, work) for index, each in enumerate(chunks)]
    return json_response(document | {"usage": usage_json(usage)})


def _choice(
    index: int, chunks: list[Chunk], request: CompletionRequest, work: Work
) -> dict[str, Any]:
    logprobs = None
    if request.logprobs is not None:
        logprobs = Logprobs(request.logprobs).of([chunk.top_logprobs for chunk in chunks])
    return {
        "index": index,
        "text": _echoed(request, work, index) + "".join([chunk.text for chunk in chunks]),
        "logprobs": logprobs,
        "finish_reason": finish_reason(chunks[-1].finish_reason),
    }


def _echoed(request: CompletionRequest, work: Work, index: int) -> str:
    return str(work.prompts[index // work.choices]) if request.echo else ""


class Logprobs:
    """The legacy form: four lists beside each other. Offsets count characters of the answer."""

    def __init__(self, top: int) -> None:
        self._top, self._offset = top, 0

    def of(self, texts: Sequence[str]) -> dict[str, Any]:
        """For the tokens of these chunks."""
        tokens = [token for text in texts for token in token_logprobs(text)]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token["token"])
        return {
            "text_offset": offsets,
            "token_logprobs": [token["logprob"] for token in tokens],
            "tokens": [token["token"] for token in tokens],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in token["top_logprobs"][: self._top]}
                for token in tokens
            ],
        }


def _events(
    context: Context, call: Call, request: CompletionRequest, work: Work
) -> AsyncGenerator[bytes, None]:
    with_usage = request.wants_usage
    head = as_json(context.head(call, *KIND))[:-1]
    choices = [
        ChoiceEvents(head, index, request.logprobs, with_usage, _echoed(request, work, index))
        for index in range(work.answers)
    ]
    return context.events(work, choices, head, with_usage)


class ChoiceEvents:
    """The events of one choice. What all of them share is made once."""

    def __init__(
        self, head: bytes, index: int, logprobs: int | None, with_usage: bool, echoed: str
    ) -> None:
        self._before = b'data: %s,"choices":[{"index":%d,"text":' % (head, index)
        self._close = b"}]" + (b',"usage":null' if with_usage else b"") + b"}\n\n"
        self._after = b',"logprobs":null,"finish_reason":null' + self._close
        self._logprobs = None if logprobs is None else Logprobs(logprobs)
        self._echoed = echoed

    def events(self, chunk: Chunk) -> bytes:
        """Empty for a chunk that says nothing."""
        text, self._echoed = self._echoed + chunk.text, ""
        data = b""
        if self._logprobs is not None:
            found = as_json(self._logprobs.of([chunk.top_logprobs]))
            data = self._before + quoted(text) + b',"logprobs":' + found
            data += b',"finish_reason":null' + self._close
        elif text:
            data = self._before + quoted(text) + self._after
        if chunk.final:
            word = quoted(finish_reason(chunk.finish_reason))
            data += self._before + b'"","logprobs":null,"finish_reason":' + word + self._close
        return data
