"""A request's fields -> `SamplingParams`, whose refusals then speak of the request's fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llama_fp4.errors import InvalidRequest, LlamaError
from llama_fp4.gateway.errors import ApiError, of_server, wrong
from llama_fp4.gateway.openai_api.chat_request import ResponseFormat
from llama_fp4.gateway.openai_api.fields import MAX_STOPS, Sampled
from llama_fp4.sampling import SamplingParams

OPENAI_TEMPERATURE = 1.0  # the API's default, where the server's own is greedy
SAME = (
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "top_p",
    "top_k",
    "min_p",
    "min_tokens",
    "repetition_penalty",
    "length_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "priority",
)
GUIDES = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "text",
    "tools",
)
SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}/-]")
Guide = tuple[str, str]


def sampling_params(
    request: Sampled,
    max_tokens: int | None,
    logprobs: int | None,
) -> SamplingParams:
    """Without a guide. Raises `ApiError`."""
    values = {name: getattr(request, name) for name in SAME}
    if values["top_k"] == -1:  # vLLM's spelling of "all"
        values["top_k"] = 0
    values["temperature"] = (
        OPENAI_TEMPERATURE if request.temperature is None else request.temperature
    )
    if len(request.stop) > MAX_STOPS:
        raise wrong("stop", f"stop must hold at most {MAX_STOPS} strings, not {len(request.stop)}")
    values["stop_words"] = request.stop
    values["bad_words"] = tuple(request.bad_words or ())
    if request.stop_token_ids:
        values["end_id"] = request.stop_token_ids[0]
    if request.logit_bias:
        raise wrong(
            "logit_bias",
            "logit_bias must be left out: this server favours words, not token ids",
            "unsupported_parameter",
        )
    values["max_tokens"], values["logprobs"] = max_tokens, logprobs
    try:
        return SamplingParams(**values)
    except InvalidRequest as error:
        raise translated(error, request) from None


def guide_of(request: Sampled, response_format: ResponseFormat | None = None) -> Guide | None:
    """The one guide that a request asks for, in any of its spellings. Raises `ApiError`."""
    spelled = {
        "response_format": response_format and of_format(response_format),
        "guided_json": request.guided_json and ("json_schema", _document(request.guided_json)),
        "guided_regex": request.guided_regex and ("regex", request.guided_regex),
        "guided_choice": request.guided_choice and ("regex", choice(request.guided_choice)),
        "guided_grammar": request.guided_grammar and ("ebnf_grammar", request.guided_grammar),
        **_structured(request),
    }
    given = {name: guide for name, guide in spelled.items() if guide}
    if len(given) > 1:
        raise wrong(list(given)[1], f"{' and '.join(given)} are given; at most one may be")
    return next(iter(given.values()), None)


def _structured(request: Sampled) -> dict[str, Guide | None]:
    found = request.structured_outputs
    if found is None:
        return {}
    return {
        "structured_outputs.json": ("json_schema", _document(found.json_)) if found.json_ else None,
        "structured_outputs.regex": ("regex", found.regex) if found.regex else None,
        "structured_outputs.choice": ("regex", choice(found.choice)) if found.choice else None,
        "structured_outputs.grammar": ("ebnf_grammar", found.grammar) if found.grammar else None,
        "structured_outputs.json_object": (
            ("json_schema", '{"type": "object"}') if found.json_object else None
        ),
    }


def of_format(wanted: ResponseFormat) -> Guide | None:
    """The guide of OpenAI's `response_format`."""
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return "json_schema", '{"type": "object"}'
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        name = "response_format.json_schema.schema"
        raise wrong(name, f"{name} is missing and must be given", "missing_required_parameter")
    return "json_schema", json.dumps(wanted.json_schema.schema_, ensure_ascii=False)


def choice(texts: list[str]) -> str:
    """A regex for one of these texts."""
    return "(" + "|".join(SPECIAL.sub(r"\\\g<0>", text) for text in texts) + ")"


def _document(schema: Any) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)


def translated(error: LlamaError, request: Sampled) -> ApiError:
    """The server's refusal, in the names that the request has for the ensemble's inputs."""
    message = str(error)
    names = _names(request)
    first = next((name for name in re.findall(r"[a-z_]\w*", message) if name in names), None)
    if isinstance(error, InvalidRequest) and first is not None:
        for name, called in names.items():
            message = re.sub(rf"\b{name}\b", called, message)
        shown = of_server(type(error)(message, error.code, error.request_id))
        shown.param = names[first]
        return shown
    shown = of_server(error)
    if shown.code == "context_length_exceeded":
        fields = type(request).model_fields
        shown.param = next(name for name in ("messages", "input", "prompt") if name in fields)
    return shown


def _names(request: Sampled) -> Mapping[str, str]:
    """The ensemble's inputs -> the fields of this request."""
    given = request.model_dump(exclude_none=True)
    names = {name: name for name in (*SAME, "temperature", "max_tokens", "logprobs", "bad_words")}
    names |= {"messages": "messages", "tools": "tools", "text_input": "prompt"}
    names |= {"stop_words": "stop", "end_id": "stop_token_ids"}
    for called in ("max_completion_tokens", "max_output_tokens"):
        if called in given:
            names["max_tokens"] = called
    if "top_logprobs" in given:
        names["logprobs"] = "top_logprobs"
    called = next((name for name in GUIDES if name in given), "response_format")
    names |= {"guided_decoding_guide": called, "guided_decoding_guide_type": called}
    return names
