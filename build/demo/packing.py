"""Pack tokenized documents into rows of equal length, without leaks between documents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from demo import corpus

OPEN_ROWS = 64  # rows that are filled at a time; more rows waste less space at their ends


@dataclass(frozen=True)
class Packed:
    """Rows of tokens [rows, length]; segment 0 is padding, documents count from 1 in each row."""

    tokens: NDArray[np.uint16]
    segments: NDArray[np.uint8]
    positions: NDArray[np.uint16]  # each document starts at 0
    targets: NDArray[np.bool_]  # True for the tokens that the model learns to predict

    def save(self, path: Path) -> None:
        """Write aside, then rename, so that a killed run leaves no half file."""
        aside = path.with_suffix(".tmp.npz")
        np.savez(
            aside,
            tokens=self.tokens,
            segments=self.segments,
            positions=self.positions,
            targets=self.targets,
        )
        os.replace(aside, path)

    @classmethod
    def load(cls, path: Path) -> Packed:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["tokens"], arrays["segments"], arrays["positions"], arrays["targets"])


def concatenate(first: Packed, second: Packed) -> Packed:
    """The rows of both, in this order."""
    return Packed(
        np.concatenate([first.tokens, second.tokens]),
        np.concatenate([first.segments, second.segments]),
        np.concatenate([first.positions, second.positions]),
        np.concatenate([first.targets, second.targets]),
    )


class AnswerMask:
    """Marks the tokens to learn: the assistants' answers, or a raw text as a whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._start = tokenizer.token_to_id("<|start_header_id|>")
        self._eot = tokenizer.token_to_id(corpus.EOT)
        header = tokenizer.encode(corpus.render_header("assistant"), add_special_tokens=False)
        self._header: list[int] = header.ids

    def __call__(self, ids: list[int]) -> NDArray[np.bool_]:
        """Mask [len(ids)]; an answer includes its end token."""
        mask = np.zeros(len(ids), dtype=np.bool_)
        if ids[1] != self._start:
            mask[1:] = True
            return mask
        width, inside, index = len(self._header), False, 0
        while index < len(ids):
            if ids[index : index + width] == self._header:
                inside, index = True, index + width
                continue
            mask[index] = inside
            inside = inside and ids[index] != self._eot
            index += 1
        return mask


def encoded_documents(
    tokenizer: Tokenizer, seed: int, drill_share: float = 0.0
) -> Iterator[list[int]]:
    """Endless token ids of the documents of this seed."""
    source = corpus.documents(seed, drill_share)
    while True:
        batch = [next(source) for _ in range(1000)]
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            yield encoding.ids


def pack(
    tokenizer: Tokenizer, seed: int, rows: int, length: int, drill_share: float = 0.0
) -> Packed:
    """Fill `rows` rows of `length` tokens; a document never spans two rows."""
    mask_of = AnswerMask(tokenizer)
    packed = Packed(
        np.zeros((rows, length), np.uint16),
        np.zeros((rows, length), np.uint8),
        np.zeros((rows, length), np.uint16),
        np.zeros((rows, length), np.bool_),
    )
    source = encoded_documents(tokenizer, seed, drill_share)
    for first in range(0, rows, OPEN_ROWS):
        used = np.zeros(min(OPEN_ROWS, rows - first), np.int64)
        count = np.zeros_like(used)
        misses = 0
        while misses < 8:
            ids = next(source)
            fits = np.flatnonzero(used + len(ids) <= length)
            if not len(fits):
                misses += 1
                continue
            row = fits[np.argmax(used[fits])]
            count[row] += 1
            span = slice(used[row], used[row] + len(ids))
            packed.tokens[first + row, span] = ids
            packed.segments[first + row, span] = count[row]
            packed.positions[first + row, span] = np.arange(len(ids))
            packed.targets[first + row, span] = mask_of(ids)
            used[row] += len(ids)
    order = np.random.default_rng(seed).permutation(rows)
    return Packed(
        packed.tokens[order], packed.segments[order], packed.positions[order], packed.targets[order]
    )
