"""Upstream's wire format for lists of words as token ids, read.

A list is int32 [2, n]: row 0 holds the ids of all words, one after the other; row 1 holds where
each word ends, then -1 (tensorrtllm_backend, `_to_word_list_format`).
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from request_inputs.rows import InvalidRequest

MOST_PADDED = 8  # a row of a batch is as long as the longest, so it may be padded


def read_word_list(
    name: str, array: npt.NDArray[Any] | None, vocab_size: int, most_words: int, most_ids: int
) -> tuple[tuple[int, ...], ...]:
    """The words of a list; raises `InvalidRequest`."""
    if array is None or not array.size:
        return ()
    if array.ndim != 2 or array.shape[0] != 2:
        raise InvalidRequest(f"{name} has the shape {list(array.shape)}, allowed is [2, n]")
    if array.shape[1] > MOST_PADDED * most_ids:  # before the cost of looking at them
        raise InvalidRequest(
            f"{name} has the shape {list(array.shape)}, allowed are {most_ids} ids in all"
        )
    ids, ends = array.tolist()
    words: list[tuple[int, ...]] = []
    start = 0
    for end in ends:
        if end < 0:
            break
        if not start <= end <= len(ids):
            raise InvalidRequest(
                f"{name} has the end {end} after {start}, allowed is {start} to {len(ids)}"
            )
        if end > start:
            words.append(tuple(ids[start:end]))
        start = end
    for token_id in (token_id for word in words for token_id in word):
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(f"{name} holds {token_id}, allowed is 0 to {vocab_size - 1}")
    if len(words) > most_words or start > most_ids:
        raise InvalidRequest(
            f"{name} holds {len(words)} words of {start} ids, "
            f"allowed are {most_words} words of {most_ids} ids together"
        )
    return tuple(dict.fromkeys(words))
