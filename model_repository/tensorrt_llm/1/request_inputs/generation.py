"""The tensors of a request to room 2 -> one `GenerationInputs` for each row of its batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from engine_config import EngineConfig
from response_outputs.room_response import OutputOptions
from response_outputs.text import StopWord
from token_engine.interface import Guide, GuideKind, SamplingParams, lacks
from token_engine.registry import RUNTIMES, Feature

from request_inputs.guide_bounds import check_bounds
from request_inputs.rows import (
    Arrays,
    InvalidRequest,
    Row,
    UnsupportedRequest,
    read_word_list,
    refuse_beams,
    refuse_meaningless,
    shorten,
    shown,
)

LARGEST_INT32 = 2**31 - 1
SEEDS = 2**64
BEAM_NUMBERS = {
    "len_penalty": "length_penalty",
    "beam_search_diversity_rate": "beam_search_diversity_rate",
}
MAX_STOP_WORDS = 16
MAX_STOP_BYTES = 256
MAX_BAD_WORDS = 256  # preprocessing makes two of each: with and without a space before
MAX_BAD_IDS = 2048
MAX_BIASED_TOKENS = 1024
MAX_SEQUENCES = 16
MAX_TOP_LOGPROBS = 20
# Divided by the least temperature it is still a number in f32. An infinity would turn the whole
# distribution into NaN, and a kernel may then choose an invalid token, which ends the engine.
LARGEST_BIAS = 1e30
NO_END = -1  # an end_id that disables all end ids; one beyond the vocabulary does too
# Upstream renamed these; both names are understood.
OLD_NAMES = {
    "min_length": "min_tokens",
    "random_seed": "seed",
    "return_kv_cache_reuse_stats": "return_perf_metrics",
}


@dataclass(frozen=True, slots=True)
class GenerationInputs:
    """One checked row, before it has a key."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    min_tokens: int
    num_sequences: int
    end_id: int | None  # besides the checkpoint's; NO_END: none at all
    ignore_eos: bool
    stop_words: tuple[StopWord, ...]
    sampling: SamplingParams
    logprobs: int | None
    bad_words: tuple[tuple[int, ...], ...]
    token_bias: tuple[tuple[int, float], ...]
    guide: Guide | None
    priority: int
    timeout_s: float  # from admission; 0: none
    output: OutputOptions

    def end_ids(self, checkpoint: list[int]) -> tuple[int, ...]:
        """The ids that end this generation, given the checkpoint's."""
        if self.ignore_eos or self.end_id == NO_END:
            return ()
        own = [] if self.end_id is None else [self.end_id]
        return tuple(dict.fromkeys([*checkpoint, *own]))


def read_inputs(
    arrays: Arrays, config: EngineConfig, echo_prompt: bool = False
) -> list[GenerationInputs]:
    """The request that `arrays` describe (names and dtypes as in config.pbtxt).

    `echo_prompt` is the default of requests without exclude_input_in_output. Raises
    `InvalidRequest`, and `UnsupportedRequest` for what the engine's runtime cannot do.
    """
    arrays, sent = _with_new_names(arrays)
    for name in ("input_ids", "request_output_len"):
        if name not in arrays:
            raise InvalidRequest(f"{name} is missing, it is required")
    refuse_meaningless(arrays)
    read = [_read_row(row, config, echo_prompt) for row in _rows(arrays, sent)]
    _check_guides(read, config.runtime)
    return read


def with_seed_of(sampling: SamplingParams, sequence: int) -> SamplingParams:
    """The parameters of another sequence of the same prompt: its draws must differ."""
    if sampling.seed is None or sequence == 0:  # without a seed, no two draw alike
        return sampling
    return replace(sampling, seed=(sampling.seed + sequence) % SEEDS)


def refuse_several_responses(rows: list[GenerationInputs], packed: bool) -> None:
    """For a model that gives one response; `packed`: that one holds all sequences.

    Raises `InvalidRequest` for a request with several.
    """
    why = "this server's ensemble is unary and gives one response a request"
    way = "; tensorrt_llm_bls answers several in one response"
    if any(row.output.streaming for row in rows):
        raise InvalidRequest(f"stream is true and must be false: {why}")
    if packed:
        return
    if len(rows) > 1:
        raise InvalidRequest(f"the batch has {len(rows)} rows and must have 1: {why}{way}")
    if rows[0].num_sequences > 1:
        raise InvalidRequest(
            f"num_return_sequences is {rows[0].num_sequences} and must be 1: {why}{way}"
        )


def _with_new_names(arrays: Arrays) -> tuple[Arrays, dict[str, str]]:
    """The inputs by their newer names, and {newer name: the older one that was sent}."""
    renamed, sent = dict(arrays), dict[str, str]()
    for old, new in OLD_NAMES.items():
        if old in renamed:
            value = renamed.pop(old)
            if new in renamed and not np.array_equal(renamed[new], value):
                raise InvalidRequest(f"{old} and {new} differ and must be equal")
            renamed[new] = value
            sent[new] = old
    return renamed, sent


def _rows(arrays: Arrays, sent: dict[str, str]) -> Iterator[Row]:
    size = len(arrays["input_ids"])
    for name, array in arrays.items():
        if len(array) != size:
            raise InvalidRequest(
                f"{name} has {len(array)} rows and must have {size}, as input_ids has"
            )
    for index in range(size):
        yield Row({name: array[index] for name, array in arrays.items()}, sent)


def _read_row(row: Row, config: EngineConfig, echo_prompt: bool) -> GenerationInputs:
    refuse_beams(row)
    length = _prompt_length(row)
    max_tokens = row.integer("request_output_len", 0, 1, LARGEST_INT32, said="max_tokens")
    total, limit = length + max_tokens, config.limits.max_seq_len
    if total > limit:
        raise InvalidRequest(
            f"the prompt of {length} tokens and max_tokens {max_tokens} make {total} "
            f"and must make at most {limit}"
        )
    vocabulary = config.model.vocab_size
    row.integer("pad_id", 0, -1, LARGEST_INT32)  # nothing is padded; checked all the same
    inputs = GenerationInputs(
        prompt_ids=_prompt(row, length, vocabulary),
        max_tokens=max_tokens,
        min_tokens=row.integer("min_tokens", 0, 0, max_tokens),
        num_sequences=row.integer("num_return_sequences", 1, 1, MAX_SEQUENCES),
        end_id=_end_id(row, vocabulary),
        ignore_eos=row.flag("ignore_eos"),
        stop_words=_stop_words(row, vocabulary),
        sampling=_sampling(row),
        logprobs=_logprobs(row),
        bad_words=_word_list(row, "bad_words_list", vocabulary, MAX_BAD_WORDS, MAX_BAD_IDS),
        token_bias=_token_bias(row.array("embedding_bias"), vocabulary),
        guide=_guide(row),
        priority=row.integer("priority", 0, -100, 100),
        timeout_s=row.integer("timeout_ms", 0, 0, LARGEST_INT32) / 1000,
        output=_output_options(row, echo_prompt),
    )
    _check_features(inputs, config.runtime)
    return inputs


def _sampling(row: Row) -> SamplingParams:
    """With upstream's meanings: the choice is greedy without temperature, top_k and top_p, and with
    top_k 1 or temperature 0; top_p 0 or below means unset.
    """
    temperature = row.number("temperature", 1.0, 0, 100)
    top_k = row.integer("runtime_top_k", 0, 0, LARGEST_INT32, said="top_k")
    top_p = _top_p(row)
    min_p = row.number("min_p", 0.0, 0, 1)
    seed = row.integer("seed", 0, 0, SEEDS - 1)
    _check_beam_numbers(row)
    asked = "temperature" in row or top_k or min_p or _gives_top_p(row)
    greedy = not asked or temperature == 0 or top_k == 1
    sampling = SamplingParams(
        repetition_penalty=row.number("repetition_penalty", 1.0, 0, 100, above=True),
        presence_penalty=row.number("presence_penalty", 0.0, -2, 2),
        frequency_penalty=row.number("frequency_penalty", 0.0, -2, 2),
    )
    if greedy:
        return sampling
    return replace(
        sampling,
        greedy=False,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed if "seed" in row else None,
    )


def _check_beam_numbers(row: Row) -> None:
    """They act on beams only; checked all the same."""
    for name, called in BEAM_NUMBERS.items():
        value = row.single(name, 0.0, called)
        if not math.isfinite(value):
            raise InvalidRequest(f"{called} is {value} and must be a finite number")


def _top_p(row: Row) -> float:
    value = row.single("runtime_top_p", 1.0, said="top_p")
    if not (math.isfinite(value) and value <= 1):
        raise InvalidRequest(
            f"top_p is {shown(value)} and must be above 0 and up to 1, or 0 and below for unset"
        )
    return float(value) if value > 0 else 1.0


def _gives_top_p(row: Row) -> bool:
    return bool(row.single("runtime_top_p", 0.0) > 0)


def _output_options(row: Row, echo_prompt: bool) -> OutputOptions:
    counted = row.flag("return_num_input_tokens", True)
    said = "return_num_input_tokens" in row
    return OutputOptions(
        streaming=row.flag("streaming"),
        echo_prompt=not row.flag("exclude_input_in_output", not echo_prompt),
        include_stop=row.flag("include_stop_str_in_output"),
        skip_special_tokens=row.flag("skip_special_tokens", True),
        log_probs=row.flag("return_log_probs"),
        top_logprobs="logprobs" in row,
        perf_metrics=row.flag("return_perf_metrics"),
        num_input_tokens=("always" if said else "last") if counted else "never",
        num_output_tokens=row.flag("return_num_output_tokens", True),
        token_ids=row.flag("return_token_ids"),
    )


def _end_id(row: Row, vocab_size: int) -> int | None:
    if "end_id" not in row:
        return None
    end_id = row.integer("end_id", 0, NO_END, LARGEST_INT32)
    return end_id if end_id < vocab_size else NO_END


def _prompt_length(row: Row) -> int:
    ids = row.array("input_ids")
    size = 0 if ids is None else ids.size
    if not size:
        raise InvalidRequest("input_ids is empty and must hold at least one id")
    length = int(row.single("input_lengths", size))
    if not 1 <= length <= size:
        raise InvalidRequest(
            f"input_lengths is {length} and must be 1 to {size}, the size of input_ids"
        )
    return length


def _prompt(row: Row, length: int, vocab_size: int) -> tuple[int, ...]:
    """Read only when its length is known to fit, because there may be millions of ids."""
    ids = row.array("input_ids")
    assert ids is not None
    prompt = tuple(ids.reshape(-1)[:length].tolist())
    for token_id in (min(prompt), max(prompt)):
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(
                f"input_ids holds {token_id} and must hold ids from 0 to {vocab_size - 1}"
            )
    return prompt


def _stop_words(row: Row, vocab_size: int) -> tuple[StopWord, ...]:
    texts = row.texts("stop_words", MAX_STOP_WORDS, MAX_STOP_BYTES)
    ids = _word_list(row, "stop_words_list", vocab_size, MAX_STOP_WORDS, MAX_STOP_BYTES)
    return (*(StopWord(text=text) for text in texts), *(StopWord(ids=word) for word in ids))


def _word_list(
    row: Row, name: str, vocab_size: int, most_words: int, most_ids: int
) -> tuple[tuple[int, ...], ...]:
    return read_word_list(name, row.array(name), vocab_size, most_words, most_ids)


def _logprobs(row: Row) -> int | None:
    wanted = row.integer("logprobs", 0, 0, MAX_TOP_LOGPROBS)
    return wanted if "logprobs" in row or row.flag("return_log_probs") else None


def _token_bias(array: npt.NDArray[Any] | None, vocab_size: int) -> tuple[tuple[int, float], ...]:
    if array is None or not array.size:
        return ()
    bias = array.reshape(-1)
    if len(bias) != vocab_size:
        raise InvalidRequest(
            f"embedding_bias holds {len(bias)} values and must hold {vocab_size}, one a token"
        )
    if not np.isfinite(bias).all():
        raise InvalidRequest("embedding_bias holds NaN or infinity and must hold finite numbers")
    biased = np.flatnonzero(bias)
    if len(biased) > MAX_BIASED_TOKENS:
        raise InvalidRequest(
            f"embedding_bias changes {len(biased)} tokens and must change at most "
            f"{MAX_BIASED_TOKENS}"
        )
    largest = float(bias.max())
    if largest > LARGEST_BIAS:
        raise InvalidRequest(
            f"embedding_bias holds {largest:g} and must hold at most {LARGEST_BIAS:g}"
        )
    return tuple((int(one), max(float(bias[one]), -LARGEST_BIAS)) for one in biased)


def _guide(row: Row) -> Guide | None:
    kind, text = row.text("guided_decoding_guide_type"), row.text("guided_decoding_guide")
    return Guide(cast(GuideKind, kind), text) if kind or text else None


@lru_cache(maxsize=256)
def _check_guide(guide: Guide, check_guide: Callable[[Guide], None] | None) -> None:
    """A guide that was seen before costs nothing; one that is wrong is checked each time."""
    check_bounds(guide)
    if check_guide is not None:
        check_guide(guide)


def _check_guides(rows: list[GenerationInputs], runtime: str) -> None:
    """Check each different guide once, after everything that is cheaper to check."""
    check_guide = RUNTIMES[runtime].check_guide
    for guide in dict.fromkeys(row.guide for row in rows if row.guide):
        try:
            _check_guide(guide, check_guide)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None


def _check_features(inputs: GenerationInputs, runtime: str) -> None:
    """Raise `UnsupportedRequest` for the first input that the runtime does not support."""
    sampling = inputs.sampling
    wanted: list[tuple[Feature, str, object, str]] = [
        ("min_p", "min_p", sampling.min_p or None, "0"),
        ("repetition_penalty", "repetition_penalty", _unless(sampling.repetition_penalty, 1), "1"),
        ("presence_penalty", "presence_penalty", sampling.presence_penalty or None, "0"),
        ("frequency_penalty", "frequency_penalty", sampling.frequency_penalty or None, "0"),
        ("min_tokens", "min_tokens", inputs.min_tokens or None, "0"),
        # Not counted: each word has come as several token sequences.
        ("bad_words", "bad_words", "given" if inputs.bad_words else None, "none"),
        ("embedding_bias", "embedding_bias", "given" if inputs.token_bias else None, "none"),
        ("top_logprobs", "logprobs", inputs.logprobs or None, "0"),
        ("logprobs", "return_log_probs", inputs.logprobs is not None or None, "false"),
        (
            "guided_decoding",
            "guided_decoding_guide_type",
            inputs.guide and (shorten(inputs.guide.kind) or "missing"),
            "none",
        ),
    ]
    features = RUNTIMES[runtime].features
    for feature, name, value, neutral in wanted:
        if value is not None and feature not in features:
            raise UnsupportedRequest(lacks(runtime, name, value, neutral))


def _unless(value: float, neutral: float) -> float | None:
    return None if value == neutral else value
