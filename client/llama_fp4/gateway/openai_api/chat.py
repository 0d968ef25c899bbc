"""`/v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response

from llama_fp4.answers import Chunk
from llama_fp4.errors import LlamaError
from llama_fp4.gateway.errors import wrong
from llama_fp4.gateway.exchange import DONE, Call
from llama_fp4.gateway.generation import Generation, Work
from llama_fp4.gateway.openai_api.answers import (
    as_json,
    finish_reason,
    quoted,
    token_logprobs,
    usage_json,
)
from llama_fp4.gateway.openai_api.chat_request import ChatRequest
from llama_fp4.gateway.openai_api.endpoints import Context, json_response
from llama_fp4.gateway.openai_api.fields import parse
from llama_fp4.gateway.openai_api.sampling import guide_of, sampling_params, translated


async def answer_chat(context: Context, call: Call) -> Response:
    """The answer to one POST. Raises `ApiError` and `LlamaError`."""
    started = time.perf_counter()
    request = parse(ChatRequest, call.body)
    context.check_model(request.model)
    work = _work(context, call, request)
    try:
        if request.stream:
            events = _events(context, call, request, work)
            return await context.streamed(events, started)
        return await _whole(context, call, request, work)
    except LlamaError as error:
        raise translated(error, request) from None


def _work(context: Context, call: Call, request: ChatRequest) -> Work:
    if request.tools:
        raise wrong("tools", "tools is not served yet", "unsupported_parameter")
    limits = (request.max_completion_tokens, request.max_tokens)
    if None not in limits and limits[0] != limits[1]:
        message = f"max_completion_tokens is {limits[0]} and max_tokens {limits[1]}; give one"
        raise wrong("max_tokens", message)
    asked = limits[1] if limits[0] is None else limits[0]
    if request.top_logprobs is not None and not request.logprobs:
        raise wrong("top_logprobs", "top_logprobs needs logprobs: true")
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    guide = guide_of(request, request.response_format)
    most = context.settings.max_tokens
    params = sampling_params(request, asked, most, guide, logprobs)
    stream = bool(request.stream)
    return Work([request.messages], params, request.n or 1, call.server_id, stream)


async def _whole(context: Context, call: Call, request: ChatRequest, work: Work) -> Response:
    chunks: list[list[Chunk]] = [[] for _ in range(work.choices)]
    async with Generation(context.backend, work) as generation:
        while arrived := await generation.arrived():
            for index, chunk in arrived:
                chunks[index].append(chunk)
    context.count(generation.usage)
    document = _document(call, context, "chat.completion")
    document["choices"] = [_choice(index, each, request) for index, each in enumerate(chunks)]
    return json_response(document | {"usage": usage_json(generation.usage)})


def _document(call: Call, context: Context, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{call.own_id}",
        "object": kind,
        "created": call.created,
        "model": context.settings.served_names[0],
    }


def _choice(index: int, chunks: list[Chunk], request: ChatRequest) -> dict[str, Any]:
    logprobs = None
    if request.logprobs:
        content = [each for chunk in chunks for each in token_logprobs(chunk.top_logprobs)]
        logprobs = {"content": content, "refusal": None}
    text = "".join([chunk.text for chunk in chunks])
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": finish_reason(chunks[-1].finish_reason),
    }


async def _events(
    context: Context, call: Call, request: ChatRequest, work: Work
) -> AsyncGenerator[bytes, None]:
    """One value for all chunks that have arrived together."""
    with_usage = bool(request.stream_options and request.stream_options.include_usage)
    head = as_json(_document(call, context, "chat.completion.chunk"))[:-1]
    choices = [
        ChoiceEvents(head, index, bool(request.logprobs), with_usage)
        for index in range(work.choices)
    ]
    async with Generation(context.backend, work) as generation:
        while arrived := await generation.arrived():
            data = b"".join([choices[index].events(chunk) for index, chunk in arrived])
            if data:
                yield data
    context.count(generation.usage)
    if with_usage:
        tail = as_json({"choices": [], "usage": usage_json(generation.usage)})
        yield b"data: " + head + b"," + tail[1:] + b"\n\n"
    yield DONE


class ChoiceEvents:
    """The events of one choice. What all of them share is made once."""

    def __init__(self, head: bytes, index: int, logprobs: bool, with_usage: bool) -> None:
        self._before = b'data: %s,"choices":[{"index":%d,"delta":' % (head, index)
        self._text = self._before + b'{"content":'
        self._close = b"]" + (b',"usage":null' if with_usage else b"") + b"}\n\n"
        self._after = b',"logprobs":null,"finish_reason":null}' + self._close
        self._logprobs, self._begun = logprobs, False

    def events(self, chunk: Chunk) -> bytes:
        """Empty for a chunk that says nothing."""
        data = b"" if self._begun else self._first()
        if self._logprobs:
            content = as_json(token_logprobs(chunk.top_logprobs))
            data += self._text + quoted(chunk.text)
            data += b'},"logprobs":{"content":' + content + b',"refusal":null}'
            data += b',"finish_reason":null}' + self._close
        elif chunk.text:
            data += self._text + quoted(chunk.text) + b"}" + self._after
        if chunk.final:
            word = quoted(finish_reason(chunk.finish_reason))
            data += (
                self._before + b'{},"logprobs":null,"finish_reason":' + word + b"}" + self._close
            )
        return data

    def _first(self) -> bytes:
        self._begun = True
        return self._before + b'{"role":"assistant","content":"","refusal":null}' + self._after
