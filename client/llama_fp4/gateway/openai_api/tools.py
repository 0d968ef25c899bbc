"""Tools of a request: what the server is asked for, and what its refusals mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_fp4.errors import InvalidRequest, LlamaError
from llama_fp4.gateway.errors import ApiError, wrong
from llama_fp4.gateway.openai_api.fields import Sampled
from llama_fp4.gateway.openai_api.sampling import Guide, translated
from llama_fp4.gateway.tool_calls import (
    ToolError,
    ToolUse,
    guides_for,
    read_tool_use,
    refusal_of,
)

FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
GUIDE = "guided_decoding_guide"  # the ensemble's input; a refusal of a guide names it


def tool_use(fields: Mapping[str, Any], flat: bool = False) -> ToolUse:
    """What a request says of tools; `flat` as in the Responses API. Raises `ApiError`."""
    try:
        return read_tool_use(fields, flat)
    except ToolError as error:
        raise wrong(error.param, error.message) from None


def guides_of(use: ToolUse, own: Guide | None) -> list[Guide | None]:
    """The guides to try in turn, where the request asks for the guide `own` too.

    A call that must come comes in place of what `own` says. Raises `ApiError`.
    """
    answer = json.loads(own[1]) if own is not None and own[0] == "json_schema" else None
    try:
        if use.mode == "required":
            return [*guides_for(use)]
        if own is None or answer is not None:
            return [*guides_for(use, answer), own]
    except ToolError as error:
        raise wrong(error.param, error.message) from None
    return [own]


def refuses_guide(error: LlamaError) -> bool:
    """Whether the server refused the guide, and may take another one."""
    return isinstance(error, InvalidRequest) and GUIDE in str(error)


def refused(error: LlamaError, request: Sampled, use: ToolUse) -> ApiError:
    """The error for the client, in the request's own names."""
    if use.mode == "required" and refuses_guide(error):
        found = refusal_of(str(error), use)
        return wrong(found.param, found.message)
    return translated(error, request)
