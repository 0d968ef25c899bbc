"""Tools of a request: what the server is asked for, and what its refusals mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Sequence

from starlette.responses import Response

from llama_fp4.errors import InvalidRequest, LlamaError
from llama_fp4.gateway.errors import ApiError, wrong
from llama_fp4.gateway.generation import Work
from llama_fp4.gateway.openai_api.fields import Sampled
from llama_fp4.gateway.openai_api.sampling import Guide, translated
from llama_fp4.gateway.tool_calls import (
    ToolCallParser,
    ToolError,
    ToolUse,
    guides_for,
    read_tool_use,
    refusal_of,
)
from llama_fp4.sampling import SamplingParams

Answer = Callable[[Work], Awaitable[Response]]
FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
GUIDE = "guided_decoding_guide"  # the ensemble's input; a refusal of a guide names it


def tool_use(request: Sampled, flat: bool = False) -> ToolUse:
    """What a request says of tools; `flat` as in the Responses API. Raises `ApiError`."""
    fields = {name: getattr(request, name) for name in FIELDS}
    try:
        return read_tool_use(fields, flat)
    except ToolError as error:
        raise wrong(error.param, error.message) from None


def guides_of(use: ToolUse, own: Guide | None) -> list[Guide | None]:
    """The guides to try in turn, where the request asks for the guide `own` too.

    A call that must come comes in place of what `own` says. Raises `ApiError`.
    """
    try:
        if use.mode == "required":
            return [*guides_for(use)]
        if own is None:
            return [*guides_for(use), None]
    except ToolError as error:
        raise wrong(error.param, error.message) from None
    if own[0] != "json_schema" or not use.names:
        return [own]
    try:
        schema = json.loads(own[1])
    except ValueError:  # the server says what is wrong with it
        return [own]
    return [*guides_for(use, schema), own]


def with_tools(params: SamplingParams, use: ToolUse) -> SamplingParams:
    """The model is shown the tools, and its answer keeps the special token that begins a call."""
    if not use.prompt_tools:
        return params
    return params.merged({"tools": use.prompt_tools, "skip_special_tokens": False})


def parser_of(use: ToolUse) -> ToolCallParser | None:
    """None if an answer is text alone."""
    return ToolCallParser(use.names, use.parallel) if use.names else None


async def under_guides(
    request: Sampled, use: ToolUse, guides: Sequence[Guide | None], work: Work, answer: Answer
) -> Response:
    """The answer to `work` under the first guide that the server takes. Raises `ApiError`."""
    for number, guide in enumerate(guides, 1):
        kind, text = guide or (None, None)
        options = {"guided_decoding_guide_type": kind, "guided_decoding_guide": text}
        try:
            return await answer(dataclasses.replace(work, params=work.params.merged(options)))
        except LlamaError as error:
            if number == len(guides) or not _may_go_on(error, guides[number]):
                raise _refused(error, request, use) from None
    raise AssertionError("there is always a guide, or None, to try")


def _may_go_on(error: LlamaError, guide: Guide | None) -> bool:
    """Whether to try the next guide. A runtime may refuse other options beside any guide, so a
    request that asked for none is tried without one."""
    return _refuses_guide(error) or (guide is None and isinstance(error, InvalidRequest))


def _refuses_guide(error: LlamaError) -> bool:
    """Whether the server refused the guide, and may take another one."""
    return isinstance(error, InvalidRequest) and GUIDE in str(error)


def _refused(error: LlamaError, request: Sampled, use: ToolUse) -> ApiError:
    """The error for the client, in the request's own names."""
    if use.mode == "required" and _refuses_guide(error):
        found = refusal_of(str(error), use)
        return wrong(found.param, found.message)
    return translated(error, request)
