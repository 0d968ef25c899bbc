"""A request as SGLang's arguments. Needs no running engine.

Prompts go as input_ids; stop words of text are room 2's. Sources: sglang/srt of 0.5.23:
sampling/sampling_params.py, sampling/penaltylib, layers/sampler.py, managers/schedule_batch.py,
managers/tokenizer_manager.py, speculative/eagle_utils.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from token_engine.choices import choice_as_regex
from token_engine.interface import (
    GenerationRequest,
    Guide,
    SamplingParams,
    UnsupportedParameter,
    lacks,
)
from token_engine.library_results import OBJECT_OR_ARRAY, seed_of_63_bits

# What the library gets for each field of a request, as model_repository/TENSORS.md shows it.
# "refused ..." means every value but the default.
HONOURS = {
    "greedy": "temperature=0; top_k, top_p, min_p and sampling_seed stay unset",
    "temperature": "temperature (below 1e-6 it is greedy)",
    "top_k": "top_k; -1 for no limit",
    "top_p": (
        "top_p: of the whole distribution, not of what top_k left (without deterministic "
        "inference of that, wherever the batch has a min_p)"
    ),
    "min_p": (
        "min_p, after top_k and top_p, without deterministic inference. With it every row of "
        "the batch has a seed (42, if none is given), and the sampler asserts that none has "
        "where one has a min_p: all requests would end. Refused with a speculative_algorithm, "
        "which leaves it out"
    ),
    "seed": (
        "sampling_seed, hashed into 63 bits. Honoured by deterministic inference alone: without "
        "it a seed is refused, with it one is drawn for a request that has none"
    ),
    "repetition_penalty": "refused: SGLang's acts on the output alone, ours on the prompt too",
    "presence_penalty": (
        "presence_penalty: OpenAI's, of the output alone. Refused with a speculative_algorithm, "
        "which leaves out the tokens since the first draft"
    ),
    "frequency_penalty": "frequency_penalty, as presence_penalty",
    "max_tokens": "max_new_tokens, always (the library's own default is 128)",
    "end_ids": (
        "stop_token_ids; none: ignore_eos=True, which stops at no stop id either. Some without "
        "the checkpoint's own are refused: those stop it always"
    ),
    "min_tokens": "min_new_tokens, where there are end ids",
    "bad_words": "refused: the library has none",
    "token_bias": "logit_bias, with ids as words",
    "logprobs": (
        "return_logprob and top_logprobs_num; of the logits before temperature "
        "(SGLANG_RETURN_ORIGINAL_LOGPROB), but after penalties, bias, bans and guides: refused "
        "with those"
    ),
    "guide": (
        'json -> a schema of objects and arrays ("$$ANY$$" is for xgrammar alone), json_schema, '
        "regex, ebnf_grammar -> ebnf, choice -> regex. Refused with ignore_eos and with min_tokens"
    ),
    "priority": "priority, with enable_priority_scheduling and schedule_low_priority_values_first",
}

GUIDE_FIELDS = {"json_schema": "json_schema", "regex": "regex", "ebnf_grammar": "ebnf"}

Refusal = tuple[str, object, str]  # the input's name, its value, what it must be


def refuse_unsupported(
    request: GenerationRequest,
    guides: bool,
    deterministic: bool,
    drafts: bool,
    eos_ids: Collection[int],
) -> None:
    """Raise `UnsupportedParameter` for the first parameter that this engine does not support.

    `eos_ids` are the checkpoint's."""
    for name, value, needed in (
        *_refused_draws(request.sampling, deterministic),
        *(_refused_with_drafts(request.sampling) if drafts else ()),
        *_refused_choices(request),
        *_refused_guides(request, guides),
        *_refused_logprobs(request),
        *_refused_ends(request, eos_ids),
    ):
        raise UnsupportedParameter(lacks("sglang", name, value, needed))


def _refused_draws(sampling: SamplingParams, deterministic: bool) -> Iterator[Refusal]:
    if sampling.greedy:
        return
    if sampling.seed is not None and not deterministic:
        needed = "none: its engine has enable_deterministic_inference false, and honours no seed"
        yield "seed", sampling.seed, needed
    if sampling.min_p and deterministic:
        needed = (
            "0: its engine has enable_deterministic_inference true, where every request has a "
            "seed, and SGLang cannot draw with both"
        )
        yield "min_p", f"{sampling.min_p:g}", needed


def _refused_with_drafts(sampling: SamplingParams) -> Iterator[Refusal]:
    """Parameters that `eagle_sample` ignores, or applies as before the first draft."""
    needed = "0 with a speculative_algorithm"
    if sampling.min_p and not sampling.greedy:
        yield "min_p", f"{sampling.min_p:g}", needed
    if sampling.presence_penalty:
        yield "presence_penalty", f"{sampling.presence_penalty:g}", needed
    if sampling.frequency_penalty:
        yield "frequency_penalty", f"{sampling.frequency_penalty:g}", needed


def _refused_choices(request: GenerationRequest) -> Iterator[Refusal]:
    sampling = request.sampling
    if sampling.repetition_penalty != 1:
        yield "repetition_penalty", f"{sampling.repetition_penalty:g}", "1"
    if request.bad_words:
        yield "bad_words", "given", "none"


def _refused_guides(request: GenerationRequest, guides: bool) -> Iterator[Refusal]:
    if request.guide is None:
        return
    if not guides:
        yield "guided_decoding_guide_type", request.guide.kind, "none: its engine has no backend"
    if not request.end_ids:
        yield "ignore_eos", "true", "false with a guide"
    if request.min_tokens:
        yield "min_tokens", request.min_tokens, "0 with a guide"


def _refused_logprobs(request: GenerationRequest) -> Iterator[Refusal]:
    if request.logprobs is None:
        return
    sampling = request.sampling
    for changes, what in (
        (sampling.presence_penalty, "presence_penalty"),
        (sampling.frequency_penalty, "frequency_penalty"),
        (request.token_bias, "embedding_bias"),
        (request.min_tokens and request.end_ids, "min_tokens"),
        (request.guide, "a guide"),
    ):
        if changes:
            yield "return_log_probs", "true", f"false with {what}"


def _request_id(key: int) -> str:
    """All ids have the same length, because an abort ends every request whose id begins with the
    given id (`Scheduler.abort_request`)."""
    return f"{key:020d}"


def library_arguments(request: GenerationRequest, deterministic: bool) -> dict[str, Any]:
    """Keyword arguments of `async_generate` for a request that is not refused."""
    return {
        "input_ids": list(request.prompt_ids),
        "sampling_params": _sampling_params(request, deterministic),
        "stream": True,
        "rid": _request_id(request.key),
        "priority": request.priority,
        "return_logprob": request.logprobs is not None,
        "top_logprobs_num": request.logprobs or 0,
    }


def _refused_ends(request: GenerationRequest, eos_ids: Collection[int]) -> Iterator[Refusal]:
    if request.end_ids and not set(eos_ids) <= set(request.end_ids):
        yield "ignore_eos", "true", "false with a stop word that is a special token"


def _sampling_params(request: GenerationRequest, deterministic: bool) -> dict[str, Any]:
    params: dict[str, Any] = {
        "max_new_tokens": request.max_tokens,
        "ignore_eos": not request.end_ids,
        "presence_penalty": request.sampling.presence_penalty,
        "frequency_penalty": request.sampling.frequency_penalty,
        **_choice(request.sampling, deterministic),
    }
    if request.end_ids:
        params["stop_token_ids"] = list(request.end_ids)
        params["min_new_tokens"] = request.min_tokens
    if request.token_bias:
        params["logit_bias"] = {str(token): bias for token, bias in request.token_bias}
    if request.guide is not None:
        params |= _guide(request.guide)
    return params


def _choice(sampling: SamplingParams, deterministic: bool) -> dict[str, Any]:
    if sampling.greedy:
        return {"temperature": 0.0}
    choice: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or -1,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
    }
    if deterministic:
        choice["sampling_seed"] = seed_of_63_bits(sampling.seed_or_fresh())
    return choice


def _guide(guide: Guide) -> dict[str, Any]:
    if guide.kind == "json":
        return {"json_schema": OBJECT_OR_ARRAY}
    guide = choice_as_regex(guide)
    return {GUIDE_FIELDS[guide.kind]: guide.text}
