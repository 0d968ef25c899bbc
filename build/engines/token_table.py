"""`token_bytes.npz`: the raw bytes of every token id, from the checkpoint's `tokenizer.json`.

With it room 3 turns token ids into exact text without a tokenizer library. Arrays: `offsets`
u32 [vocab_size + 1], `data` u8 [total bytes], `special` bool [vocab_size]; token `i` is
`data[offsets[i]:offsets[i + 1]]`. A special token holds its text's bytes; an id without a token
(the model's vocabulary may be padded) holds none.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from host.console import BuildError
from host.json_document import read_json, shown


@dataclass(frozen=True)
class TokenTable:
    """See the module's docstring."""

    offsets: npt.NDArray[np.uint32]
    data: npt.NDArray[np.uint8]
    special: npt.NDArray[np.bool_]

    def save(self, path: Path) -> None:
        """Write the three arrays."""
        np.savez(path, offsets=self.offsets, data=self.data, special=self.special)


def read_token_table(
    tokenizer: Path,
    vocab_size: int,
    special_tokens: Collection[str] = (),
    end_token_ids: Collection[int] = (),
) -> TokenTable:
    """Build the table from a byte-level BPE `tokenizer.json`; raises `BuildError`.

    Special tokens, which are not text, are those that the file marks as special, the end tokens and
    `special_tokens` (which the files beside it name, and transformers treats as special too).
    """
    document = read_json(tokenizer)
    added_tokens = document.get("added_tokens") or []
    spelled_out = {added["content"] for added in added_tokens}
    pieces = [b""] * vocab_size
    special = np.zeros(vocab_size, np.bool_)
    byte_of = _byte_of_character()
    for text, token_id in _vocabulary(tokenizer, document).items():
        _check_id(tokenizer, text, token_id, vocab_size)
        if text in spelled_out:  # not in byte-level form
            continue
        try:
            pieces[token_id] = bytes(byte_of[character] for character in text)
        except KeyError:
            raise BuildError(
                f"{tokenizer}: token {shown(text)} is not byte-level; {_REMEDY}"
            ) from None
    for added in added_tokens:
        text, token_id = added["content"], added["id"]
        _check_id(tokenizer, text, token_id, vocab_size)
        pieces[token_id] = text.encode("utf-8")
        special[token_id] = (
            bool(added.get("special")) or text in special_tokens or token_id in end_token_ids
        )
    offsets = np.zeros(vocab_size + 1, np.uint32)
    offsets[1:] = np.cumsum([len(piece) for piece in pieces])
    return TokenTable(offsets, np.frombuffer(b"".join(pieces), np.uint8), special)


_REMEDY = "give a checkpoint with Llama 3's byte-level BPE tokenizer.json"


def _vocabulary(tokenizer: Path, document: dict[str, Any]) -> dict[str, int]:
    model = document.get("model") or {}
    vocabulary = model.get("vocab")
    if model.get("type") != "BPE" or not isinstance(vocabulary, dict):
        raise BuildError(
            f"{tokenizer}: the model's type must be 'BPE', not {model.get('type')!r}; {_REMEDY}"
        )
    return vocabulary


def _check_id(tokenizer: Path, text: str, token_id: object, vocab_size: int) -> None:
    if type(token_id) is not int or not 0 <= token_id < vocab_size:
        raise BuildError(
            f"{tokenizer}: token {shown(text)} has the id {shown(token_id)}, but must have one "
            f"below config.json's vocab_size {vocab_size}; give the tokenizer that belongs to this "
            "checkpoint"
        )


def _byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's `bytes_to_unicode`.

    Printable bytes are their own characters; the other 68 have those from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }
