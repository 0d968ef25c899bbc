"""Words that a request bans, favours or stops at, as token ids.

A model may write one word with different tokens. Banned and favoured are those that it normally
writes: the word as it stands and after a space, each as the tokenizer encodes it. Not covered:
other letter case, the word inside a longer one's token, and spellings that the tokenizer itself
would not choose.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from prompt_encoder import PromptEncoder
from prompt_inputs import InvalidPrompt, PromptRow

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
MAX_WORDS = 128
MAX_WORD_BYTES = 256
MAX_BIAS_WORDS = 512
MAX_BAD_IDS = 2048  # as tensorrt_llm/1/generation_inputs.py has it


def bad_words(row: PromptRow, encoder: PromptEncoder) -> list[list[int]]:
    """Every tokenization of the row's bad words that is banned, without repeats."""
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
    """The row's stop words, each alone; room 2 matches them as text."""
    words = row.words("STOP_WORDS_DICT", MAX_WORDS, MAX_WORD_BYTES)
    return [encoder.encode_plain(word) for word in words if word]


def embedding_bias(row: PromptRow, encoder: PromptEncoder, vocab_size: int) -> Float32:
    """What is added to each token's logit [vocab_size]: each weight to all tokens of its word."""
    words = row.words("EMBEDDING_BIAS_WORDS", MAX_BIAS_WORDS, MAX_WORD_BYTES)
    weights = row.numbers("EMBEDDING_BIAS_WEIGHTS", MAX_BIAS_WORDS)
    words_given = [word for word in words if word]
    if not words_given and not any(weights):
        return np.empty(0, np.float32)
    if len(words) != len(weights):
        raise InvalidPrompt(
            f"embedding_bias_words holds {len(words)} words and embedding_bias_weights "
            f"{len(weights)} numbers, allowed is one number for each word"
        )
    bias = np.zeros(vocab_size, np.float32)
    for word, weight in zip(words, weights, strict=True):
        if not math.isfinite(weight):
            raise InvalidPrompt(
                f"embedding_bias_weights holds {weight:g}, allowed are finite numbers"
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
    """Upstream's wire format, int32 [n, 2, longest]: ids one after the other, and where each word
    ends, filled up with -1 (tensorrtllm_backend, `_to_word_list_format`)."""
    longest = max(sum(map(len, words)) for words in rows)
    lists = np.zeros((len(rows), 2, longest), np.int32)
    lists[:, 1] = -1
    for index, words in enumerate(rows):
        ids = [token_id for word in words for token_id in word]
        lists[index, 0, : len(ids)] = ids
        lists[index, 1, : len(words)] = np.cumsum([len(word) for word in words])
    return lists
