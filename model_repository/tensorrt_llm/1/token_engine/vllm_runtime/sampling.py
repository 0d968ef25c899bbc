"""A request as vLLM's `SamplingParams`. Knows no running engine.

Nothing is tokenized or put into text: prompts go as ids, detokenize=False, output_kind=DELTA, and
stop words of text are room 2's. Sources: vllm/sampling_params.py, vllm/v1/sample, and
vllm/v1/worker/gpu/sample of 0.32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from token_engine.choices import choice_as_regex, read_choices
from token_engine.interface import GenerationRequest, Guide, UnsupportedParameter, lacks
from token_engine.library_results import OBJECT_OR_ARRAY, seed_of_63_bits
from token_engine.vllm_runtime.library import Library

# What the library gets for each field of a request, as model_repository/TENSORS.md shows it.
# "refused ..." means every value but the default.
HONOURS = {
    "greedy": "temperature=0; top_k, top_p, min_p and seed stay unset",
    "temperature": (
        "temperature, 0.01 to 2. It raises smaller ones to 0.01, and refuses larger ones: both "
        "are refused here"
    ),
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p: it goes before top_k and top_p, whose shares are of what it leaves",
    "seed": (
        "seed, hashed into 63 bits (it keeps signed numbers), where there is one: a request "
        "with one is drawn apart from the batch, which is slower"
    ),
    "repetition_penalty": "repetition_penalty: of prompt and output, by the logit's sign",
    "presence_penalty": "presence_penalty: OpenAI's, of the output alone",
    "frequency_penalty": "frequency_penalty: OpenAI's, of the output alone",
    "max_tokens": "max_tokens, always (the library's own default is 16)",
    "end_ids": "stop_token_ids, with ignore_eos=True: those and no others",
    "min_tokens": "min_tokens, where there are end ids: it bans all of stop_token_ids",
    "bad_words": (
        "_bad_words_token_ids, what the library makes of its `bad_words`, which are text. A "
        "word that began in the prompt is not seen"
    ),
    "token_bias": "logit_bias",
    "logprobs": "logprobs: 0 is the chosen token's; of the raw logits (logprobs_mode)",
    "guide": (
        "structured_outputs: json -> a schema of objects and arrays (json_object leaves arrays "
        "out), json_schema -> json, regex -> regex, ebnf_grammar -> grammar, choice -> choice (-> "
        "regex, where a string has a control character, which it does not escape). Refused with "
        "ignore_eos and with min_tokens, which would let it go on, or forbid it to end"
    ),
    "priority": 'priority of `generate`, with scheduling_policy="priority"',
}

LEAST_TEMPERATURE, LARGEST_TEMPERATURE = 0.01, 2.0
GUIDE_FIELDS = {"json_schema": "json", "regex": "regex", "ebnf_grammar": "grammar"}

Refusal = tuple[str, object, str]  # the input's name, its value, what it must be


def refuse_unsupported(request: GenerationRequest, guides: bool) -> None:
    """Raise `UnsupportedParameter` for the first parameter that this engine does not support."""
    for name, value, needed in _refusals(request, guides):
        raise UnsupportedParameter(lacks("vllm", name, value, needed))


def _refusals(request: GenerationRequest, guides: bool) -> Iterator[Refusal]:
    sampling = request.sampling
    if not sampling.greedy and not LEAST_TEMPERATURE <= sampling.temperature <= LARGEST_TEMPERATURE:
        needed = f"0, or {LEAST_TEMPERATURE:g} to {LARGEST_TEMPERATURE:g}"
        yield "temperature", f"{sampling.temperature:g}", needed
    if request.guide is None:
        return
    if not guides:
        yield "guided_decoding_guide_type", request.guide.kind, "none: its engine has no backend"
    if not request.end_ids:
        yield "ignore_eos", "true", "false with a guide"
    if request.min_tokens:
        yield "min_tokens", request.min_tokens, "0 with a guide"


def library_params(request: GenerationRequest, library: Library) -> Any:
    """The `SamplingParams` of a request that is not refused."""
    params: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "ignore_eos": True,
        "stop_token_ids": list(request.end_ids),
        "detokenize": False,
        "output_kind": library.delta,
        "logprobs": request.logprobs,
        **_choice(request),
    }
    if request.end_ids:
        params["min_tokens"] = request.min_tokens
    if request.bad_words:
        params["_bad_words_token_ids"] = [list(word) for word in request.bad_words]
    if request.token_bias:
        params["logit_bias"] = dict(request.token_bias)
    if request.guide is not None:
        params["structured_outputs"] = _guide(request.guide, library)
    return library.sampling_params(**params)


def _choice(request: GenerationRequest) -> dict[str, Any]:
    sampling = request.sampling
    choice: dict[str, Any] = {
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    if sampling.greedy:
        return {**choice, "temperature": 0.0}
    if sampling.seed is not None:
        choice["seed"] = seed_of_63_bits(sampling.seed)
    return {
        **choice,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
    }


def _guide(guide: Guide, library: Library) -> Any:
    if guide.kind == "json":
        return library.structured_outputs_params(json=OBJECT_OR_ARRAY)
    if guide.kind == "choice":
        choices = read_choices(guide.text)
        if "".join(choices).isprintable():
            return library.structured_outputs_params(choice=list(choices))
        guide = choice_as_regex(guide)
    return library.structured_outputs_params(**{GUIDE_FIELDS[guide.kind]: guide.text})
