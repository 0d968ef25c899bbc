"""Room 1: raw prompts or chat messages -> the token ids of prompts that fit the engine.

It knows the tokenizer, the chat template and the engine's limits, but no engine. Every refusal
is one sentence that names the input, its value and what it must be.

Banned and favoured words become the token ids that the model normally writes for them: those of
the word alone and those of the word after a space, as the tokenizer encodes them. Other letter
case, tokens of longer words that contain the word, and unusual tokenizations are not covered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from chat_messages import InvalidMessages, parse_messages, parse_tools
from checkpoint_text import CheckpointTextError, load_checkpoint_text
from prompt_encoder import PromptEncoder, PromptTooLong

Arrays = Mapping[str, npt.NDArray[Any]]
# The clients' and the unary model's; room 2 reads them.
PARAMETERS = ("id", "named_errors", "cancel_id", "one_response")
# What upstream's clients and benchmarks send, and upstream's models never read.
WITHOUT_EFFECT = ("Streaming", "accumulate_tokens")
# Whether an error's message begins with "[CODE] ", for callers that do not see the code.
NAMED_ERRORS = "named_errors"
# What clients call them: the names of the ensemble.
CALLED = {
    "QUERY": "text_input",
    "MESSAGES": "messages",
    "TOOLS": "tools",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "STOP_WORDS_DICT": "stop_words",
    "BAD_WORDS_DICT": "bad_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
}
# Declared because clients send them; refused when they carry a value.
MEANINGLESS = {
    "DECODER_QUERY": ("decoder_text_input", "a Llama model has no encoder"),
    "PROMPT_TABLE_EXTRA_ID": ("prompt_table_extra_id", "this engine takes no prompt tables"),
    "IMAGE_BYTES": ("IMAGE_BYTES", "the model reads text alone"),
    "IMAGE_URL": ("IMAGE_URL", "the model reads text alone"),
    "IMAGES": ("IMAGES", "the model reads text alone"),
    "VIDEO_BYTES": ("VIDEO_BYTES", "the model reads text alone"),
}
JSON_ESCAPE = 6  # bytes that JSON may spend on one byte of text: "\\u0041" is "A"
Outputs = dict[str, npt.NDArray[Any]]


class Refusal(Exception):
    """A request is not admitted; `code` is the name of Triton's error code."""

    code: ClassVar[str] = "INTERNAL"


class InvalidPrompt(Refusal):
    """The caller's mistake."""

    code = "INVALID_ARG"


class UnsupportedPrompt(Refusal):
    """Something that upstream's contract has and a Llama text model does not."""

    code = "UNSUPPORTED"


class PreparationError(RuntimeError):
    """The room has no usable tokenizer; the message names the file and the command to run."""


class RequestPreparation:
    """Reads engine.json, tokenizer.json and tokenizer_config.json from one directory."""

    def __init__(self, directory: Path) -> None:
        try:
            config = json.loads((directory / "engine.json").read_text(encoding="utf-8"))
            model = config["model"]
            self._max_seq_len = int(config["limits"]["max_seq_len"])
            self._vocab_size = int(model["vocab_size"])
            end_ids = [int(token_id) for token_id in model["eos_token_ids"]]
            self._end_id = end_ids[0]
            bos_id = int(model["bos_token_id"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise PreparationError(
                f"{directory / 'engine.json'} cannot be read ({error}); build it with 'make engine'"
            ) from error
        try:
            text = load_checkpoint_text(directory, bos_id, end_ids)
        except CheckpointTextError as error:
            raise PreparationError(str(error)) from error
        self._encoder, self._template = text.encoder, text.template

    def prepare(self, arrays: Arrays, wanted: Set[str]) -> Outputs:
        """Returns the `wanted` output tensors, with names and dtypes as in config.pbtxt.

        Each row has QUERY (a trusted raw prompt) or MESSAGES (JSON), exactly one of them. Raises
        `InvalidPrompt` and `UnsupportedPrompt`.
        """
        refuse_meaningless(arrays)
        size = max((len(array) for array in arrays.values()), default=1)
        rows = [PromptRow(arrays, index) for index in range(size)]
        asked = [self._max_tokens(row) for row in rows]
        prompts, limits = list[list[int]](), list[int]()
        for row, max_tokens in zip(rows, asked, strict=True):
            prompts.append(self._prompt(row))
            # Here, so that a prompt that is too long is refused before the next one is encoded.
            limits.append(self._limit(len(prompts[-1]), max_tokens))
        pads = [self._token_id(row, "PAD_ID", self._end_id) for row in rows]
        outputs: Outputs = {
            "INPUT_ID": _padded(prompts, pads),
            "REQUEST_INPUT_LEN": _column([len(prompt) for prompt in prompts]),
            "REQUEST_OUTPUT_LEN": _column(limits),
        }
        return outputs | self._words(rows, wanted) | self._for_steps_alone(rows, pads, wanted)

    def _words(self, rows: list[PromptRow], wanted: Set[str]) -> Outputs:
        """Bad words, embedding bias and stop words.

        The ensemble does not want STOP_WORDS_IDS, and it gets no empty lists. Other callers get
        empty lists too, as upstream's step gives them.
        """
        outputs: Outputs = {}
        empty = "STOP_WORDS_IDS" in wanted
        bad = [bad_words(row, self._encoder) for row in rows]
        if any(bad) or (empty and "BAD_WORDS_IDS" in wanted):
            outputs["BAD_WORDS_IDS"] = word_list(bad)
        bias = [embedding_bias(row, self._encoder, self._vocab_size) for row in rows]
        if any(len(values) for values in bias):
            none = np.zeros(self._vocab_size, np.float32)
            outputs["EMBEDDING_BIAS"] = np.stack([v if len(v) else none for v in bias])
        elif empty and "EMBEDDING_BIAS" in wanted:
            outputs["EMBEDDING_BIAS"] = np.empty((len(rows), 0), np.float32)
        if "STOP_WORDS_IDS" in wanted:
            outputs["STOP_WORDS_IDS"] = word_list([stop_words(row, self._encoder) for row in rows])
        return outputs

    def _for_steps_alone(self, rows: list[PromptRow], pads: list[int], wanted: Set[str]) -> Outputs:
        """Upstream's other outputs, for callers that run the steps themselves."""
        outputs: Outputs = {}
        if "OUT_END_ID" in wanted:
            ends = [self._token_id(row, "END_ID", self._end_id) for row in rows]
            outputs["OUT_END_ID"] = _column(ends)
        if "OUT_PAD_ID" in wanted:
            outputs["OUT_PAD_ID"] = _column(pads)
        if "DECODER_INPUT_ID" in wanted:
            outputs["DECODER_INPUT_ID"] = _column(pads)
            outputs["REQUEST_DECODER_INPUT_LEN"] = _column([1] * len(rows))
        return outputs

    def _max_tokens(self, row: PromptRow) -> int | None:
        """None if it is left out: then as many as fit the context."""
        max_tokens = row.integer("REQUEST_OUTPUT_LEN")
        if max_tokens is not None and max_tokens < 1:
            raise InvalidPrompt(f"max_tokens is {max_tokens} and must be at least 1")
        return max_tokens

    def _prompt(self, row: PromptRow) -> list[int]:
        query, messages, tools = row.data("QUERY"), row.data("MESSAGES"), row.data("TOOLS")
        if (query is None) == (messages is None):
            given = (
                "neither text_input nor messages is"
                if query is None
                else "both text_input and messages are"
            )
            raise InvalidPrompt(f"{given} given; exactly one must be")
        if query is None:
            assert messages is not None
            return self._encode_messages(
                self._text(messages, "messages"), self._text(tools or b"", "tools")
            )
        if tools:
            raise InvalidPrompt("tools is given with text_input and must come with messages")
        text = decode_text(query, "text_input")
        if not text:
            raise InvalidPrompt("text_input is empty and must have at least one character")
        try:
            return self._encoder.encode_trusted(text, most=self._max_seq_len)
        except PromptTooLong as error:
            raise InvalidPrompt(f"text_input: {error}") from None

    def _encode_messages(self, document: str, tools: str) -> list[int]:
        if self._template is None:
            raise InvalidPrompt(
                "messages is given, and this checkpoint has no chat template; send the whole "
                "prompt as text_input, or serve a checkpoint that has chat_template.jinja"
            )
        try:
            messages = parse_messages(document)
            prompt = self._template.render(messages, parse_tools(tools) if tools else None)
            return self._encoder.encode_rendered(prompt, most=self._max_seq_len)
        except PromptTooLong as error:
            raise InvalidPrompt(f"messages: {error}") from None
        except InvalidMessages as error:
            raise InvalidPrompt(str(error)) from None

    def _text(self, data: bytes, called: str) -> str:
        at_least = len(data) // (JSON_ESCAPE * self._encoder.longest_token)
        if at_least > self._max_seq_len:  # refused before it is encoded, which costs more
            raise InvalidPrompt(
                f"{called} has {len(data)} bytes and must have no more than {self._max_seq_len} "
                "tokens can hold"
            )
        return decode_text(data, called)

    def _token_id(self, row: PromptRow, name: str, default: int) -> int:
        value = row.integer(name)
        if value is None:
            return default
        if value < -1:
            raise InvalidPrompt(f"{name.lower()} is {value} and must be at least -1")
        return value

    def _limit(self, prompt_tokens: int, max_tokens: int | None) -> int:
        """The most tokens that the answer may have."""
        longest = self._max_seq_len
        if max_tokens is None:
            if prompt_tokens >= longest:
                raise InvalidPrompt(
                    f"the prompt has {prompt_tokens} tokens and must have less than {longest}, "
                    "which prompt and answer may have together"
                )
            return longest - prompt_tokens
        total = prompt_tokens + max_tokens
        if total > longest:
            raise InvalidPrompt(
                f"the prompt of {prompt_tokens} tokens and max_tokens {max_tokens} make {total} "
                f"and must make at most {longest}"
            )
        return max_tokens


def _padded(prompts: list[list[int]], pads: list[int]) -> npt.NDArray[np.int32]:
    """int32 [n, longest]."""
    longest = max(map(len, prompts))
    return np.array(
        [
            prompt + [pad] * (longest - len(prompt))
            for prompt, pad in zip(prompts, pads, strict=True)
        ],
        np.int32,
    )


def _column(values: list[int]) -> npt.NDArray[np.int32]:
    return np.array(values, np.int32).reshape(-1, 1)


def wants_named_errors(parameters: str) -> bool:
    """Read before all else, so that every refusal can follow it."""
    return bool(parameters) and json.loads(parameters).get(NAMED_ERRORS) is True


def check_parameters(parameters: str) -> None:
    """Raise `InvalidPrompt` for request parameters that mean nothing.

    HTTP's `generate` makes a parameter of every JSON key that is no input, so a mis-spelled input
    would be swallowed.
    """
    given = json.loads(parameters) if parameters else {}
    if not isinstance(given.get(NAMED_ERRORS, True), bool):
        raise InvalidPrompt(
            f"{NAMED_ERRORS} is {given[NAMED_ERRORS]!r:.60} and must be true or false"
        )
    for name in given:
        if name not in (*PARAMETERS, *WITHOUT_EFFECT):
            raise InvalidPrompt(
                f"{name[:60]!r} must be an input that config.pbtxt lists, or the "
                f"request parameter {PARAMETERS[0]} or {PARAMETERS[1]}"
            )


def refuse_meaningless(arrays: Arrays) -> None:
    """Raises `UnsupportedPrompt` for the first input whose feature does not exist here."""
    for name, (called, why) in MEANINGLESS.items():
        if name in arrays and arrays[name].size and np.any(arrays[name].astype(bool)):
            raise UnsupportedPrompt(f"{called} carries a value and must carry none: {why}")


class PromptRow:
    """One row of a request's batch; an absent input gives None or nothing."""

    def __init__(self, arrays: Arrays, index: int) -> None:
        self._arrays = arrays
        self._index = index

    def data(self, name: str) -> bytes | None:
        """The bytes of a text input, undecoded."""
        value = self._one(name)
        return None if value is None else _as_bytes(value)

    def integer(self, name: str) -> int | None:
        """An integer."""
        value = self._one(name)
        return None if value is None else int(value)

    def numbers(self, name: str, most: int) -> list[float]:
        """All numbers of a list."""
        given = self._values(name)
        if given.size > most:
            raise InvalidPrompt(
                f"{CALLED[name]} holds {given.size} numbers and must hold at most {most}"
            )
        values: list[float] = given.tolist()
        return values

    def words(self, name: str, most: int, longest: int) -> list[str]:
        """The texts of a list, in order, with the empty ones, which mean none."""
        given = self._values(name)
        if given.size > most:
            raise InvalidPrompt(
                f"{CALLED[name]} holds {given.size} strings and must hold at most {most}"
            )
        values = [_as_bytes(value) for value in given.tolist()]
        for value in values:
            if len(value) > longest:
                raise InvalidPrompt(
                    f"{CALLED[name]} holds a string of {len(value)} bytes and must hold none "
                    f"above {longest}"
                )
        return [decode_text(value, CALLED[name]) for value in values]

    def _values(self, name: str) -> npt.NDArray[Any]:
        if name not in self._arrays:
            return np.empty(0)
        values: npt.NDArray[Any] = self._arrays[name][self._index].reshape(-1)
        return values

    def _one(self, name: str) -> Any:
        if name not in self._arrays:
            return None
        values = self._values(name)
        if values.size != 1:
            raise InvalidPrompt(f"{CALLED[name]} holds {values.size} values and must hold 1")
        return values.tolist()[0]


def decode_text(data: bytes, called: str) -> str:
    """UTF-8 text; raises `InvalidPrompt` that names the wrong byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidPrompt(
            f"{called} has the byte 0x{data[error.start]:02x} at {error.start} and must be UTF-8"
        ) from None


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
MAX_WORDS = 128
MAX_WORD_BYTES = 256
MAX_BIAS_WORDS = 512
MAX_BAD_IDS = 2048  # the same as in tensorrt_llm/1/request_inputs/generation.py


def bad_words(row: PromptRow, encoder: PromptEncoder) -> list[list[int]]:
    """Every banned tokenization of the row's bad words, without repeats."""
    words = row.words("BAD_WORDS_DICT", MAX_WORDS, MAX_WORD_BYTES)
    spellings = _spellings(words, encoder)
    count = sum(map(len, spellings))
    if count > MAX_BAD_IDS:
        raise InvalidPrompt(
            f"bad_words make {count} token ids, each word as it stands and after a space, and "
            f"must make at most {MAX_BAD_IDS}"
        )
    return spellings


def stop_words(row: PromptRow, encoder: PromptEncoder) -> list[list[int]]:
    """The row's stop words without the spaced form; room 2 matches them as text."""
    words = row.words("STOP_WORDS_DICT", MAX_WORDS, MAX_WORD_BYTES)
    return [encoder.encode_plain(word) for word in words if word]


def embedding_bias(row: PromptRow, encoder: PromptEncoder, vocab_size: int) -> Float32:
    """The bias of each logit, [vocab_size]: a word's weight is added to each of its tokens."""
    words = row.words("EMBEDDING_BIAS_WORDS", MAX_BIAS_WORDS, MAX_WORD_BYTES)
    weights = row.numbers("EMBEDDING_BIAS_WEIGHTS", MAX_BIAS_WORDS)
    words_given = [word for word in words if word]
    if not words_given and not any(weights):
        return np.empty(0, np.float32)
    if len(words) != len(weights):
        raise InvalidPrompt(
            f"embedding_bias_words holds {len(words)} words and embedding_bias_weights "
            f"{len(weights)} numbers; there must be one number for each word"
        )
    bias = np.zeros(vocab_size, np.float32)
    for word, weight in zip(words, weights, strict=True):
        if not math.isfinite(weight):
            raise InvalidPrompt(
                f"embedding_bias_weights holds {weight:g} and must hold finite numbers"
            )
        bias[sorted({i for ids in _spellings([word], encoder) for i in ids})] += weight
    return bias


def _spellings(words: list[str], encoder: PromptEncoder) -> list[list[int]]:
    spellings = {
        tuple(encoder.encode_plain(text)): None
        for word in words
        if word
        for text in (word, " " + word)
    }
    return [list(ids) for ids in spellings]


def word_list(rows: list[list[list[int]]]) -> Int32:
    """Upstream's wire format, int32 [n, 2, longest]: all ids, and the end of each word.

    Both are padded with -1 (tensorrtllm_backend, `_to_word_list_format`).
    """
    longest = max(sum(map(len, words)) for words in rows)
    lists = np.zeros((len(rows), 2, longest), np.int32)
    lists[:, 1] = -1
    for index, words in enumerate(rows):
        ids = [token_id for word in words for token_id in word]
        lists[index, 0, : len(ids)] = ids
        lists[index, 1, : len(words)] = np.cumsum([len(word) for word in words])
    return lists
