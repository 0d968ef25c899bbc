"""The body of `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from llama_fp4.gateway.openai_api.fields import Body, Conversation, only

ONE_MODEL = "this server has text alone"


class JsonSchema(Body):
    """`response_format.json_schema`; `strict` or not, the answer follows the schema."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Conversation):
    """`messages` are checked by the server's preprocessing."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None

    verbosity: only("medium", why="the model has one verbosity") = None  # type: ignore[valid-type]
    reasoning_effort: only("none", why="the model does not reason") = None  # type: ignore[valid-type]
    modalities: only(["text"], why=ONE_MODEL) = None  # type: ignore[valid-type]
    audio: only(why=ONE_MODEL) = None  # type: ignore[valid-type]
    prediction: only(why="there is no predicted output") = None  # type: ignore[valid-type]
    web_search_options: only(why="there is no web search") = None  # type: ignore[valid-type]
    functions: only(why="use tools instead") = None  # type: ignore[valid-type]
    function_call: only(why="use tool_choice instead") = None  # type: ignore[valid-type]
    add_generation_prompt: only(True, why="an answer is always begun") = None  # type: ignore[valid-type]
    echo: only(False, why="a chat has no raw prompt") = None  # type: ignore[valid-type]
