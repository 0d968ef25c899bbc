"""`/v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
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
from llama_fp4.gateway.openai_api.chat_request import ChatRequest
from llama_fp4.gateway.openai_api.endpoints import Context, json_response
from llama_fp4.gateway.openai_api.fields import parse
from llama_fp4.gateway.openai_api.sampling import (
    Guide,
    format_guide,
    guide_of,
    sampling_params,
    translated,
)
from llama_fp4.gateway.openai_api.tools import (
    guides_of,
    parser_of,
    tool_use,
    under_guides,
    with_tools,
)
from llama_fp4.gateway.tool_calls import ToolCallParser, ToolUse
from llama_fp4.gateway.tool_calls.messages import deltas_of, message_of


async def answer_chat(context: Context, call: Call) -> Response:
    """The answer to one POST. Raises `ApiError` and `LlamaError`."""
    started = time.perf_counter()
    request = parse(ChatRequest, call.body)
    context.check_model(request.model)
    use = tool_use(request)
    guides = guides_of(use, guide_of(request, {"response_format": _format(request)}))

    async def answered(work: Work) -> Response:
        if request.stream:
            events = _events(context, call, request, work, use)
            return await context.streamed(events, started)
        return await _whole(context, call, request, work, use)

    try:
        work = await _work(context, call, request, use)
        return await under_guides(request, use, guides, work, answered)
    except LlamaError as error:
        raise translated(error, request) from None


def _format(request: ChatRequest) -> Guide | None:
    given = request.response_format
    if given is None:
        return None
    schema = given.json_schema and given.json_schema.schema_
    return format_guide(given.type, schema, "response_format.json_schema.schema")


async def _work(context: Context, call: Call, request: ChatRequest, use: ToolUse) -> Work:
    limits = (request.max_completion_tokens, request.max_tokens)
    if None not in limits and limits[0] != limits[1]:
        message = f"max_completion_tokens is {limits[0]} and max_tokens {limits[1]}; give one"
        raise wrong("max_tokens", message)
    asked = limits[1] if limits[0] is None else limits[0]
    if request.top_logprobs is not None and not request.logprobs:
        raise wrong("top_logprobs", "top_logprobs needs logprobs: true")
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    asked = await context.fitted(asked, [request.messages], use.prompt_tools)
    params = with_tools(sampling_params(request, asked, logprobs), use)
    stream = bool(request.stream)
    return Work([request.messages], params, request.n or 1, call.server_id, stream)


async def _whole(
    context: Context, call: Call, request: ChatRequest, work: Work, use: ToolUse
) -> Response:
    chunks, usage = await context.whole(work)
    document = context.head(call, "chatcmpl", "chat.completion")
    document["choices"] = [
        _choice(index, each, request, parser_of(use)) for index, each in enumerate(chunks)
    ]
    return json_response(document | {"usage": usage_json(usage)})


def _choice(
    index: int, chunks: list[Chunk], request: ChatRequest, parser: ToolCallParser | None
) -> dict[str, Any]:
    logprobs = None
    if request.logprobs:
        content = [each for chunk in chunks for each in token_logprobs(chunk.top_logprobs)]
        logprobs = {"content": content, "refusal": None}
    text = "".join([chunk.text for chunk in chunks])
    message: dict[str, Any] = {"content": text}
    if parser is not None:
        message = message_of([*parser.feed(text), *parser.finish()])
    made_calls = parser is not None and parser.made_calls
    return {
        "index": index,
        "message": {"role": "assistant", "refusal": None, **message},
        "logprobs": logprobs,
        "finish_reason": finish_reason(chunks[-1].finish_reason, made_calls),
    }


def _events(
    context: Context, call: Call, request: ChatRequest, work: Work, use: ToolUse
) -> AsyncGenerator[bytes, None]:
    with_usage, logprobs = request.wants_usage, bool(request.logprobs)
    head = as_json(context.head(call, "chatcmpl", "chat.completion.chunk"))[:-1]
    choices = [
        ChoiceEvents(head, index, logprobs, with_usage, parser_of(use))
        for index in range(work.answers)
    ]
    return context.events(work, choices, head, with_usage)


class ChoiceEvents:
    """The events of one choice. What all of them share is made once."""

    def __init__(
        self,
        head: bytes,
        index: int,
        logprobs: bool,
        with_usage: bool,
        parser: ToolCallParser | None,
    ) -> None:
        self._before = b'data: %s,"choices":[{"index":%d,"delta":' % (head, index)
        self._text = self._before + b'{"content":'
        self._close = b"]" + (b',"usage":null' if with_usage else b"") + b"}\n\n"
        self._after = b',"logprobs":null,"finish_reason":null}' + self._close
        self._logprobs, self._begun, self._parser = logprobs, False, parser

    def events(self, chunk: Chunk) -> bytes:
        """Empty for a chunk that says nothing."""
        data = b"" if self._begun else self._first()
        if self._parser is not None:
            data += self._parsed(self._parser, chunk)
        elif self._logprobs:
            data += self._text + quoted(chunk.text) + b"}" + self._with_logprobs(chunk)
        elif chunk.text:
            data += self._text + quoted(chunk.text) + b"}" + self._after
        if chunk.final:
            made_calls = self._parser is not None and self._parser.made_calls
            word = quoted(finish_reason(chunk.finish_reason, made_calls))
            data += (
                self._before + b'{},"logprobs":null,"finish_reason":' + word + b"}" + self._close
            )
        return data

    def _parsed(self, parser: ToolCallParser, chunk: Chunk) -> bytes:
        """Text and calls; a chunk's log probabilities go with the first of its deltas."""
        found = parser.feed(chunk.text) + (parser.finish() if chunk.final else [])
        deltas = [self._before + as_json(delta) for delta in deltas_of(found)]
        if not self._logprobs:
            return b"".join([delta + self._after for delta in deltas])
        first, *rest = deltas or [self._before + b"{}"]
        return b"".join([first + self._with_logprobs(chunk), *(d + self._after for d in rest)])

    def _with_logprobs(self, chunk: Chunk) -> bytes:
        content = as_json(token_logprobs(chunk.top_logprobs))
        data = b',"logprobs":{"content":' + content + b',"refusal":null},"finish_reason":null}'
        return data + self._close

    def _first(self) -> bytes:
        self._begun = True
        return self._before + b'{"role":"assistant","content":"","refusal":null}' + self._after
