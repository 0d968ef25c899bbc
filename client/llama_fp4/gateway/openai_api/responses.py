"""`/v1/responses`: text and function tools; nothing is kept between requests."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from starlette.responses import Response

from llama_fp4.errors import LlamaError
from llama_fp4.gateway.errors import ApiError
from llama_fp4.gateway.exchange import Call
from llama_fp4.gateway.generation import Generation, Usage, Work
from llama_fp4.gateway.openai_api.answers import as_json
from llama_fp4.gateway.openai_api.endpoints import Context, json_response
from llama_fp4.gateway.openai_api.fields import parse
from llama_fp4.gateway.openai_api.response_items import Item, ResponseItems, is_broken_call
from llama_fp4.gateway.openai_api.responses_request import (
    ResponsesRequest,
    format_json,
    messages_of,
)
from llama_fp4.gateway.openai_api.sampling import (
    OPENAI_TEMPERATURE,
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
from llama_fp4.gateway.tool_calls import Event, TextDelta, ToolCallParser, ToolUse

CUT = ("length", "timeout")


async def answer_response(context: Context, call: Call) -> Response:
    """The answer to one POST. Raises `ApiError` and `LlamaError`."""
    started = time.perf_counter()
    request = parse(ResponsesRequest, call.body)
    context.check_model(request.model)
    use = tool_use(request, flat=True)
    guides = guides_of(use, guide_of(request, {"text.format": _format(request)}))
    messages = messages_of(request)

    async def answered(work: Work) -> Response:
        progress = Progress(context, call, request, use)
        if request.stream:
            events = _events(progress, work)
            return await context.streamed(events, started, progress.failed)
        (chunks,), usage = await context.whole(work)
        for chunk in chunks:
            progress.add(chunk.text, chunk.finish_reason, chunk.final)
        return json_response(progress.document(usage))

    try:
        asked = await context.fitted(request.max_output_tokens, [messages], use.prompt_tools)
        params = with_tools(sampling_params(request, asked, None), use)
        work = Work([messages], params, 1, call.server_id, bool(request.stream))
        return await under_guides(request, use, guides, work, answered)
    except LlamaError as error:
        raise translated(error, request) from None


def _format(request: ResponsesRequest) -> Guide | None:
    given = request.text.format if request.text else None
    if given is None:
        return None
    return format_guide(given.type, given.schema_, "text.format.schema")


class Progress:
    """One response: its items, its number of events, and how it ended."""

    def __init__(
        self, context: Context, call: Call, request: ResponsesRequest, use: ToolUse
    ) -> None:
        self.context, self._call, self._request, self._use = context, call, request, use
        self._parser: ToolCallParser | None = parser_of(use)
        self._items = ResponseItems()
        self._count = 0
        self._cut = False

    def add(self, text: str, finish: str, final: bool) -> list[Item]:
        """The events of a chunk."""
        found: list[Event] = [TextDelta(text)] if text else []
        if self._parser is not None:
            found = [*self._parser.feed(text), *(self._parser.finish() if final else [])]
        told = self._items.add(found)
        if final:
            self._cut = finish in CUT
            told += self._items.finish("incomplete" if self._cut else "completed")
        return told

    def encoded(self, events: Iterable[Item]) -> bytes:
        """The events as they are sent."""
        parts = []
        for event in events:
            numbered = {**event, "sequence_number": self._count}
            self._count += 1
            parts.append(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), as_json(numbered)))
        return b"".join(parts)

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that broke; clients look for `error` in any event."""
        shown = {"code": error.code, "message": error.message, "param": error.param}
        return self.encoded([{"type": "error", **shown, **error.document}])

    def begun(self) -> list[Item]:
        """The first events."""
        document = self.document(None)
        kinds = ("response.created", "response.in_progress")
        return [{"type": kind, "response": document} for kind in kinds]

    def ended(self, usage: Usage) -> Item:
        """The last event."""
        kind = "response.incomplete" if self._cut else "response.completed"
        return {"type": kind, "response": self.document(usage)}

    def _output(self) -> list[Item]:
        """All items. A call that broke is in the text that follows it; where nothing was told of
        the call before, it is left out."""
        items, streamed = self._items.items, self._request.stream
        return [item for item in items if streamed or not is_broken_call(item)]

    def document(self, usage: Usage | None) -> dict[str, Any]:
        """The response; without usage while it is made."""
        request, use, status = self._request, self._use, "in_progress"
        if usage is not None:
            status = "incomplete" if self._cut else "completed"
        return {
            "id": f"resp_{self._call.own_id}",
            "object": "response",
            "created_at": self._call.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self._cut else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self.context.settings.served_names[0],
            "output": self._output() if usage is not None else [],
            "parallel_tool_calls": use.parallel,
            "previous_response_id": None,
            "store": False,
            "temperature": (
                OPENAI_TEMPERATURE if request.temperature is None else request.temperature
            ),
            "text": format_json(request),
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage_json(usage),
            "user": request.user,
        }


def _usage_json(usage: Usage) -> dict[str, Any]:
    """The details are required there; the server does not say how many tokens were cached."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.completion,
    }


async def _events(progress: Progress, work: Work) -> AsyncGenerator[bytes, None]:
    told = progress.begun()
    async with Generation(progress.context.backend, work) as generation:
        while arrived := await generation.arrived():
            for _, chunk in arrived:
                told += progress.add(chunk.text, chunk.finish_reason, chunk.final)
            if told:
                yield progress.encoded(told)
            told = []
    progress.context.count(generation.usage)
    yield progress.encoded([progress.ended(generation.usage)])
