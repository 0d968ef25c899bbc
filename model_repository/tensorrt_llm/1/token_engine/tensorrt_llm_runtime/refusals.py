"""What a request may ask for that the installed TensorRT-LLM does not do, or not rightly.

The library ignores most of it without a word (issue 9442 of its repository), so what each sampler
honours is written down in `versions.py`, and everything else is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator

from token_engine.interface import GenerationRequest, UnsupportedParameter
from token_engine.tensorrt_llm_runtime.sampling import limited_top_k
from token_engine.tensorrt_llm_runtime.versions import SamplerAbilities

Refusal = tuple[str, object, str]  # the input's name, its value, what is allowed


def refuse_unsupported(
    request: GenerationRequest, sampler: SamplerAbilities, guide_backend: str, vocab_size: int
) -> None:
    """Raise `UnsupportedParameter` for the first parameter that this engine does not support.

    `guide_backend` is the option guided_decoding_backend."""
    for refusals in (
        _choice(request, sampler, vocab_size),
        _penalties(request, sampler),
        _banned_and_biased(request, sampler),
        _guide(request, guide_backend),
        _logprobs(request, sampler),
    ):
        for name, value, allowed in refusals:
            raise UnsupportedParameter(
                f"{name} is {value}, the tensorrt_llm runtime allows only {allowed} "
                f"({sampler.name})"
            )


def _choice(
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


def _penalties(request: GenerationRequest, sampler: SamplerAbilities) -> Iterator[Refusal]:
    sampling = request.sampling
    if sampling.repetition_penalty != 1 and not sampler.repetition_penalty:
        yield "repetition_penalty", sampling.repetition_penalty, "1"
    if not sampler.occurrence_penalties:
        if sampling.presence_penalty:
            yield "presence_penalty", sampling.presence_penalty, "0"
        if sampling.frequency_penalty:
            yield "frequency_penalty", sampling.frequency_penalty, "0"


def _banned_and_biased(request: GenerationRequest, sampler: SamplerAbilities) -> Iterator[Refusal]:
    if request.bad_words and not sampler.bad_words:
        yield "bad_words", "given", "none"
    if any(len(word) > 1 for word in request.bad_words) and not sampler.bad_sequences:
        yield "bad_words", "of several tokens a word, alone or after a space", "words of one token"
    if not sampler.token_bias:
        if request.token_bias:
            yield "embedding_bias", "given", "none"
        if request.min_tokens and request.end_ids:  # end ids are biased against
            yield "min_tokens", request.min_tokens, "0"


def _guide(request: GenerationRequest, backend: str) -> Iterator[Refusal]:
    if request.guide is None:
        return
    kind = request.guide.kind
    if not backend:
        yield "guided_decoding_guide_type", kind, "none: its engine has no backend"
    if kind == "ebnf_grammar" and backend == "llguidance":
        yield "guided_decoding_guide_type", kind, "json, json_schema and regex with llguidance"
    if not request.end_ids:  # nothing holds the text to the guide beyond the guide's end
        yield "ignore_eos", "true", "false with a guide"
    if request.min_tokens:  # a second part would begin the guide anew
        yield "min_tokens", request.min_tokens, "0 with a guide"


def _logprobs(request: GenerationRequest, sampler: SamplerAbilities) -> Iterator[Refusal]:
    """They are to be of the model's own logits; what changes those changes what is reported."""
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
