"""Room 3: token ids -> text, one response at a time, without state.

Room 2 says with every response which bytes belong to it (`carry`, `hold`), always whole characters.
So the responses' texts, decoded one by one, make up the whole text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np


class TokenIdError(ValueError):
    """A token id or count out of range; the message names it and what it must be."""


class TokenText:
    """The text of token ids, without special tokens unless `keep_special`.

    Reads `token_bytes.npz`, written by the build: offsets uint32 [vocab_size + 1],
    data uint8 [total bytes], special bool [vocab_size].
    """

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as table:
            self._offsets: list[int] = table["offsets"].tolist()
            self._data: bytes = table["data"].tobytes()
            self._special = frozenset(np.flatnonzero(table["special"]).tolist())

    def decode(
        self,
        token_ids: Iterable[int],
        carry: bytes = b"",
        hold: int = 0,
        keep_special: bool = False,
    ) -> str:
        """The text `carry + bytes of token_ids` without its last `hold` bytes."""
        skip = frozenset[int]() if keep_special else self._special
        data = carry + b"".join([self._bytes(token_id, skip) for token_id in token_ids])
        if not 0 <= hold <= len(data):
            raise TokenIdError(
                f"TEXT_HOLD is {hold} and must be 0 to {len(data)}, the bytes there are"
            )
        # Bytes that are not text are replaced; they can only come at the end of a generation.
        return data[: len(data) - hold].decode("utf-8", errors="replace")

    def _bytes(self, token_id: int, skip: frozenset[int]) -> bytes:
        if not 0 <= token_id < len(self._offsets) - 1:
            raise TokenIdError(
                f"TOKENS_BATCH holds {token_id} and must hold ids from 0 to "
                f"{len(self._offsets) - 2}"
            )
        if token_id in skip:
            return b""
        return self._data[self._offsets[token_id] : self._offsets[token_id + 1]]
