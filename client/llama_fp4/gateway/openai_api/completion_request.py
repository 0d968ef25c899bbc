"""The body of `/v1/completions`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from llama_fp4.gateway.openai_api.fields import Sampled, only

MAX_PROMPTS = 64


def _prompts(value: Any) -> Any:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_PROMPTS:
        raise PydanticCustomError(
            "prompt", f"must be a string or a list of 1 to {MAX_PROMPTS} strings"
        )
    if any(isinstance(each, (int, list)) for each in values):
        raise PydanticCustomError(
            "prompt", "must be text: this server takes no token ids as a prompt"
        )
    for each in values:
        if not isinstance(each, str) or not each:
            raise PydanticCustomError(
                "prompt", "must be a string or a list of strings, none of them empty"
            )
    return tuple(values)


class CompletionRequest(Sampled):
    """Raw prompts, trusted: special tokens in them are special."""

    prompt: Annotated[
        Any,
        BeforeValidator(_prompts),
        WithJsonSchema(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
        ),
    ]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: only("", why="the model completes, it does not insert") = None  # type: ignore[valid-type]
    best_of: only(1, why="every answer is returned") = None  # type: ignore[valid-type]
    add_special_tokens: only(True, why="a prompt gets one begin-of-text token") = None  # type: ignore[valid-type]
