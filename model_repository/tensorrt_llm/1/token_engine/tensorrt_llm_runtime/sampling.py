"""A request as TensorRT-LLM's `SamplingParams`. Needs no running engine.

The library neither tokenizes nor detokenizes: prompts are ids, detokenize=False, and room 2 matches
stop words. Sources: tensorrt_llm/sampling_params.py, executor/base_worker.py,
_torch/pyexecutor/sampler.py, cpp/tensorrt_llm/kernels/penaltyKernels.cu and layerUtils.h.

The library silently ignores most of what it does not support (issue 9442 of its repository). So
`versions.py` lists what each sampler honours, and everything else is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from token_engine.choices import choice_as_regex
from token_engine.interface import GenerationRequest, Guide, UnsupportedParameter, lacks
from token_engine.library_results import OBJECT_OR_ARRAY, seed_of_63_bits
from token_engine.tensorrt_llm_runtime.versions import Library, SamplerAbilities, with_bad_sequences

# What the library gets for each field of a request, as model_repository/TENSORS.md shows it.
# "refused ..." means every value but the default.
HONOURS = {
    "greedy": "top_k=1; temperature, top_p, min_p and seed stay unset",
    "temperature": "temperature, at least 1e-5 (0 is greedy in some versions, invalid in C++)",
    "top_k": "top_k; 0 if it is the whole vocabulary. C++ cuts above 1024: refused",
    "top_p": "top_p, at least 1e-6 (0 is invalid in C++)",
    "min_p": "min_p if not 0",
    "seed": (
        "seed, hashed into 63 bits, to the C++ sampler; one is drawn for a request without one, "
        "as the sampler's own is fixed. With a TorchSampler (the only one from 1.3.0rc26 on) a "
        "seed is refused: it ignores seeds, or draws the whole batch by the first one"
    ),
    "repetition_penalty": "repetition_penalty if not 1",
    "presence_penalty": (
        "presence_penalty, with prompt_ignore_length=len(prompt), so that the prompt does not "
        "count; divided by the temperature for the C++ sampler, which subtracts it after its own "
        "division by the temperature. Up to 1.1 another value than 0 is refused"
    ),
    "frequency_penalty": "frequency_penalty, as presence_penalty",
    "max_tokens": "max_tokens, always (the library's own default is 32)",
    "end_ids": "end_id and, beyond the first, stop_token_ids; none: ignore_eos",
    "min_tokens": "two generations: see `first_part`",
    "bad_words": "of one id: bad_token_ids; of several: see `with_bad_sequences`",
    "token_bias": "embedding_bias, a float32 tensor over the vocabulary",
    "logprobs": "logprobs: the number of likeliest tokens, and what asks for the chosen",
    "guide": (
        "guided_decoding: json -> json, a schema of objects and arrays (with llguidance, "
        "json_object is objects alone), json_schema -> json, regex -> regex, choice -> regex, "
        "ebnf_grammar -> grammar (refused with llguidance, which takes the notation of Lark)"
    ),
    "priority": (
        "the runtime keeps its own queue (async_loop.py); with "
        "scheduler_config.waiting_queue_policy 'priority' the library's queue goes by it too: "
        "priority of `generate_async`, 1 for -100 to 0 for 100"
    ),
}

LEAST_TEMPERATURE = 1e-5  # below it every draw is the likeliest token
LEAST_TOP_P = 1e-6
NEVER = -1e9  # bias of a token that must not come: finite, as -inf and -inf make NaN
GUIDE_FIELDS = {"json_schema": "json", "regex": "regex", "ebnf_grammar": "grammar"}


@dataclass(frozen=True, slots=True)
class Part:
    """One generation of the library."""

    request: GenerationRequest
    prompt_length: int  # of the caller's prompt, which this part may continue


def first_part(request: GenerationRequest) -> Part:
    """The whole request, or what comes before its `min_tokens`.

    The library's `min_tokens` bans only the `end_id`, not the `stop_token_ids`, and an 8B Llama has
    three end ids. So the first `min_tokens` tokens are generated with a bias against all end ids,
    and `next_part` continues from there with the prompt in the prefix cache.
    """
    length = len(request.prompt_ids)
    if not request.min_tokens or not request.end_ids:
        return Part(replace(request, min_tokens=0), length)
    bias = dict(request.token_bias) | dict.fromkeys(request.end_ids, NEVER)
    return Part(
        replace(
            request,
            max_tokens=request.min_tokens,
            end_ids=(),
            min_tokens=0,
            token_bias=tuple(bias.items()),
        ),
        length,
    )


def next_part(request: GenerationRequest, made: Sequence[int]) -> Part | None:
    """The part after a first part that made these tokens; None if there is none."""
    if not request.min_tokens or not request.end_ids or len(made) >= request.max_tokens:
        return None
    seed = request.sampling.seed
    if seed is not None:
        seed = (seed + len(made)) % 2**64  # or the same draws would come again
    rest = replace(
        request,
        prompt_ids=request.prompt_ids + tuple(made),
        max_tokens=request.max_tokens - len(made),
        min_tokens=0,
        sampling=replace(request.sampling, seed=seed),
    )
    return Part(rest, len(request.prompt_ids))


def library_params(part: Part, library: Library, vocab_size: int, any_end_id: int) -> Any:
    """The `SamplingParams` of a part; valid for every request that is not refused."""
    request = part.request
    params: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "detokenize": False,
        "return_perf_metrics": True,
        **_ends(request, any_end_id),
        **_choice(request, vocab_size, library.sampler),
        **_penalties(part, library.sampler),
    }
    if request.logprobs is not None:
        params["logprobs"] = request.logprobs or library.sampler.logprobs_of_chosen
        if not request.logprobs and library.sampler.simple_logprobs:
            params["logprobs_simple_format"] = True
    if request.token_bias:
        params["embedding_bias"] = _bias(request, library, vocab_size)
    if request.guide is not None:
        params["guided_decoding"] = _guide(request.guide, library)
    single = [word[0] for word in request.bad_words if len(word) == 1]
    if single:
        params["bad_token_ids"] = single
    made = library.sampling_params(**params)
    several = [list(word) for word in request.bad_words if len(word) > 1]
    return with_bad_sequences(made, several) if several else made


def _ends(request: GenerationRequest, any_end_id: int) -> dict[str, Any]:
    """There must be an `end_id`: without one the library asks its tokenizer."""
    if not request.end_ids:
        return {"end_id": any_end_id, "ignore_eos": True}
    first, *others = request.end_ids
    return {"end_id": first, **({"stop_token_ids": others} if others else {})}


def _choice(
    request: GenerationRequest, vocab_size: int, sampler: SamplerAbilities
) -> dict[str, Any]:
    sampling = request.sampling
    if sampling.greedy:
        return {"top_k": 1}
    choice: dict[str, Any] = {
        "temperature": max(sampling.temperature, LEAST_TEMPERATURE),
        "top_k": limited_top_k(request, vocab_size),
        "top_p": max(sampling.top_p, LEAST_TOP_P),
    }
    if sampler.seeds:
        choice["seed"] = seed_of_63_bits(sampling.seed_or_fresh())
    if sampling.min_p:
        choice["min_p"] = sampling.min_p
    return choice


def limited_top_k(request: GenerationRequest, vocab_size: int) -> int:
    """The request's top_k; 0 for no limit."""
    sampling = request.sampling
    return 0 if sampling.greedy or sampling.top_k >= vocab_size else sampling.top_k


def _penalties(part: Part, sampler: SamplerAbilities) -> dict[str, Any]:
    sampling = part.request.sampling
    penalties: dict[str, Any] = {}
    if sampling.repetition_penalty != 1:
        penalties["repetition_penalty"] = sampling.repetition_penalty
    if sampling.presence_penalty or sampling.frequency_penalty:
        scale = 1.0
        if sampler.temperature_first and not sampling.greedy:
            scale = max(sampling.temperature, LEAST_TEMPERATURE)
        penalties["presence_penalty"] = sampling.presence_penalty / scale
        penalties["frequency_penalty"] = sampling.frequency_penalty / scale
        penalties["prompt_ignore_length"] = part.prompt_length
    return penalties


def _bias(request: GenerationRequest, library: Library, vocab_size: int) -> Any:
    bias = np.zeros(vocab_size, np.float32)
    for token_id, value in request.token_bias:
        bias[token_id] = value
    return library.torch.from_numpy(bias)


def _guide(guide: Guide, library: Library) -> Any:
    if guide.kind == "json":
        return library.guided_decoding_params(json=OBJECT_OR_ARRAY)
    guide = choice_as_regex(guide)
    return library.guided_decoding_params(**{GUIDE_FIELDS[guide.kind]: guide.text})


Refusal = tuple[str, object, str]  # the input's name, its value, what it must be


def refuse_unsupported(
    request: GenerationRequest, sampler: SamplerAbilities, guide_backend: str, vocab_size: int
) -> None:
    """Raise `UnsupportedParameter` for the first parameter that this engine does not support.

    `guide_backend` is the option guided_decoding_backend."""
    for refusals in (
        _refused_draws(request, sampler, vocab_size),
        _refused_penalties(request, sampler),
        _refused_bans(request, sampler),
        _refused_guides(request, guide_backend),
        _refused_logprobs(request, sampler),
    ):
        for name, value, needed in refusals:
            sentence = lacks("tensorrt_llm", name, value, needed)
            raise UnsupportedParameter(f"{sentence} ({sampler.name})")


def _refused_draws(
    request: GenerationRequest, sampler: SamplerAbilities, vocab_size: int
) -> Iterator[Refusal]:
    sampling = request.sampling
    if sampling.greedy:
        return
    if not sampler.samples:
        yield "temperature", sampling.temperature, "0"
    if sampling.seed is not None and not sampler.seeds:
        yield "seed", sampling.seed, "none, as equal seeds would not draw equal tokens"
    if sampling.min_p and not sampler.min_p:
        yield "min_p", sampling.min_p, "0"
    if limited_top_k(request, vocab_size) and not sampler.top_k:
        yield "top_k", sampling.top_k, "0"
    if sampling.top_p < 1 and not sampler.top_p:
        yield "top_p", f"{sampling.top_p:g}", "1"
    if sampler.largest_top_k and limited_top_k(request, vocab_size) > sampler.largest_top_k:
        yield "top_k", sampling.top_k, f"0 to {sampler.largest_top_k}"


def _refused_penalties(request: GenerationRequest, sampler: SamplerAbilities) -> Iterator[Refusal]:
    sampling = request.sampling
    if sampling.repetition_penalty != 1 and not sampler.repetition_penalty:
        yield "repetition_penalty", sampling.repetition_penalty, "1"
    if not sampler.occurrence_penalties:
        if sampling.presence_penalty:
            yield "presence_penalty", sampling.presence_penalty, "0"
        if sampling.frequency_penalty:
            yield "frequency_penalty", sampling.frequency_penalty, "0"


def _refused_bans(request: GenerationRequest, sampler: SamplerAbilities) -> Iterator[Refusal]:
    if request.bad_words and not sampler.bad_words:
        yield "bad_words", "given", "none"
    if any(len(word) > 1 for word in request.bad_words) and not sampler.bad_sequences:
        yield "bad_words", "of several tokens a word, alone or after a space", "words of one token"
    if not sampler.token_bias:
        if request.token_bias:
            yield "embedding_bias", "given", "none"
        if request.min_tokens and request.end_ids:  # end ids are biased against
            yield "min_tokens", request.min_tokens, "0"


def _refused_guides(request: GenerationRequest, backend: str) -> Iterator[Refusal]:
    if request.guide is None:
        return
    kind = request.guide.kind
    if not backend:
        yield "guided_decoding_guide_type", kind, "none: its engine has no backend"
    if kind == "ebnf_grammar" and backend == "llguidance":
        yield (
            "guided_decoding_guide_type",
            kind,
            "json, json_schema, regex or choice with llguidance",
        )
    if not request.end_ids:  # without an end id the text goes on after the guide's end
        yield "ignore_eos", "true", "false with a guide"
    if request.min_tokens:  # a second part would start the guide again
        yield "min_tokens", request.min_tokens, "0 with a guide"


def _refused_logprobs(request: GenerationRequest, sampler: SamplerAbilities) -> Iterator[Refusal]:
    """Log-probabilities must be of the model's own logits: what changes logits is refused."""
    if request.logprobs is None:
        return
    if not sampler.logprobs:
        yield "return_log_probs", "true", "false"
    if request.logprobs and not sampler.top_logprobs:
        yield "logprobs", request.logprobs, "0, the chosen token's"
    for reason in _changes_of_logits(request, sampler):
        yield "return_log_probs", "true", f"false with {reason}"


def _changes_of_logits(request: GenerationRequest, sampler: SamplerAbilities) -> Iterator[str]:
    sampling = request.sampling
    if sampling.repetition_penalty != 1:
        yield "repetition_penalty"
    if sampling.presence_penalty:
        yield "presence_penalty"
    if sampling.frequency_penalty:
        yield "frequency_penalty"
    if request.token_bias:
        yield "embedding_bias"
    if request.bad_words:
        yield "bad_words"
    if request.min_tokens and request.end_ids:
        yield "min_tokens"
    if request.guide is not None:
        yield "a guide"
    if not sampling.greedy:
        if not sampler.chosen_has_logprob:
            yield "sampling"
        if not sampler.logprobs_are_raw and sampling.temperature != 1:
            yield f"temperature {sampling.temperature:g}"
