"""A request's fields -> `SamplingParams`, whose refusals then speak of the request's fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llama_fp4.errors import InvalidRequest, LlamaError
from llama_fp4.gateway.errors import ApiError, of_server, wrong
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
Guide = tuple[str, str]
# vLLM's names for the kinds of a guide -> the ensemble's.
KINDS = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "ebnf_grammar"}
ANY_OBJECT: Guide = ("json_schema", '{"type": "object"}')


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


def guide_of(request: Sampled, own: Mapping[str, Guide | None] | None = None) -> Guide | None:
    """The one guide that a request asks for, in any of its spellings. Raises `ApiError`.

    `own` holds the endpoint's spelling, by the field's name.
    """
    given = {name: guide for name, guide in (own or {}).items() if guide is not None}
    for name, kind in KINDS.items():
        value = getattr(request, f"guided_{name}")
        if value is not None:
            given[f"guided_{name}"] = kind, _text(value)
    if request.structured_outputs is not None:
        outputs = request.structured_outputs.model_dump(by_alias=True)
        for name, kind in KINDS.items():
            if outputs[name] is not None:
                given[f"structured_outputs.{name}"] = kind, _text(outputs[name])
        if outputs["json_object"]:
            given["structured_outputs.json_object"] = ANY_OBJECT
    if len(given) > 1:
        raise wrong(list(given)[-1], f"{' and '.join(given)} are given; at most one may be")
    return next(iter(given.values()), None)


def format_guide(kind: str, schema: Any, where: str) -> Guide | None:
    """The guide of a format of OpenAI's, whose schema belongs at `where`. Raises `ApiError`."""
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    if schema is None:
        raise wrong(where, f"{where} is missing and must be given", "missing_required_parameter")
    return "json_schema", _text(schema)


def _text(guide: Any) -> str:
    return guide if isinstance(guide, str) else json.dumps(guide, ensure_ascii=False)


def renamed(message: str, names: Mapping[str, str]) -> str:
    """The server's sentence with the request's names in place of the ensemble's."""
    for name, called in names.items():
        message = re.sub(rf"\b{name}\b", called, message)
    return message


def translated(error: LlamaError, request: Sampled) -> ApiError:
    """The server's refusal, in the names that the request has for the ensemble's inputs."""
    message = str(error)
    names = _names(request)
    first = next((name for name in re.findall(r"[a-z_]\w*", message) if name in names), None)
    if isinstance(error, InvalidRequest) and first is not None:
        shown = of_server(type(error)(renamed(message, names), error.code, error.request_id))
        shown.param = names[first]
    else:
        shown = of_server(error)
    if shown.param == "messages" or (
        shown.param is None and shown.code == "context_length_exceeded"
    ):
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
