"""The fields that requests share, and the sentence for a field that is wrong.

Types are checked here. Ranges are those of `SamplingParams`, which `sampling` fills.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

from llama_fp4.gateway.errors import ApiError, wrong

PLAIN = {"less than or equal to": "at most", "greater than or equal to": "at least", "valid ": "",
         " a integer": " an integer", " a array": " an array"}  # fmt: skip
MAX_STOPS = 16
MAX_CHOICES = 16
Parsed = TypeVar("Parsed", bound=BaseModel)


class Body(BaseModel):
    """A JSON object whose keys are all known and whose values have exactly the declared types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _stop(value: Any) -> Any:
    values = [value] if isinstance(value, str) else value
    if value is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(word, str) for word in values):
        raise PydanticCustomError("stop", "must be a string or a list of strings")
    return tuple(values)


def _nothing(allowed: Sequence[Any], why: str) -> BeforeValidator:
    """For a field that may only say what is the case anyway."""

    def check(value: Any) -> Any:
        if value is not None and not any(value is one or value == one for one in allowed):
            shown = " or ".join(repr(one) if isinstance(one, str) else str(one) for one in allowed)
            raise PydanticCustomError("unsupported", "must be {shown}: {why}",
                                      {"shown": shown or "left out", "why": why})  # fmt: skip
        return None

    return BeforeValidator(check)


def only(*allowed: Any, why: str) -> Any:
    """The annotation of a field that is accepted with these values alone, and has no effect."""
    return Annotated[Any, _nothing(allowed, why), WithJsonSchema({"enum": [*allowed, None]})]


Stop = Annotated[
    Any,
    BeforeValidator(_stop),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
NoEffect = Annotated[Any, Field(description="accepted, without effect")]
# Read by `tool_calls`, which names what is wrong in them.
Tools = Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "object"}})]


class StreamOptions(Body):
    """`stream_options`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # against eavesdroppers who count; no effect


class StructuredOutputs(Body):
    """vLLM's name for a guide."""

    json_: Any = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Sampled(Body):
    """What all requests for answers have in common; the second half are vLLM's names."""

    model: str
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    stop: Stop = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: NoEffect = None
    metadata: NoEffect = None

    min_tokens: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=1)
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    bad_words: list[str] | None = None
    priority: int | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Conversation(Sampled):
    """What chats and responses have in common."""

    tools: Tools = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None

    store: NoEffect = None
    service_tier: NoEffect = None
    prompt_cache_key: NoEffect = None
    prompt_cache_retention: NoEffect = None
    safety_identifier: NoEffect = None


def parse(kind: type[Parsed], body: bytes) -> Parsed:
    """The request in a body. Raises `ApiError` that names the first wrong field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False)[0]) from None
    except RecursionError:
        raise wrong(
            "", "the body must be JSON that is not nested so deep", "invalid_json"
        ) from None


def refusal(found: ErrorDetails) -> ApiError:
    """One sentence for pydantic's first error."""
    name, kind = path(found["loc"]), found["type"]
    if kind in ("json_invalid", "json_type"):
        return ApiError(400, f"the body must be JSON: {_reason(found)}", None, "invalid_json")
    if kind == "extra_forbidden":
        return wrong(name, f"{name} is not a field that this server knows", "unknown_parameter")
    if kind == "missing":
        return wrong(name, f"{name} is missing and must be given", "missing_required_parameter")
    if kind in ("too_short", "too_long"):
        context = found["ctx"]
        many = "at least" if kind == "too_short" else "at most"
        count = context.get("min_length", context.get("max_length"))
        return wrong(name, f"{name} must hold {many} {count}, not {context['actual_length']}")
    if not name:
        return ApiError(400, f"the body must be a JSON object, not {brief(found['input'])}")
    message = found["msg"].replace("Input should be", "must be").replace("should", "must")
    for words, plain in PLAIN.items():
        message = message.replace(words, plain)
    code = "unsupported_value" if kind == "unsupported" else "invalid_type"
    return wrong(name, f"{name} {_lowered(message)}, not {brief(found['input'])}", code)


def path(location: Sequence[str | int]) -> str:
    """`messages[0].content`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".").encode(errors="replace").decode()[:200]


def brief(value: object) -> str:
    """A value, short enough for a sentence."""
    return reprlib.repr(value)[:60]


def _reason(found: ErrorDetails) -> str:
    return str(found.get("ctx", {}).get("error", "") or found["msg"])


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]
