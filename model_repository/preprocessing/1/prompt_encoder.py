"""Text -> token ids, once for trusted text and once for a user's words.

Two `tokenizers.Tokenizer` objects read the same tokenizer.json, because whether special tokens
are recognised is a setting of the object, shared by all threads, and not of a call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer


class PromptEncoder:
    """Encodes with the tokenizer of a checkpoint; never adds a token by itself but one BOS."""

    def __init__(self, tokenizer_json: Path, bos_token_id: int) -> None:
        self._trusting = Tokenizer.from_file(str(tokenizer_json))
        self._plain = Tokenizer.from_file(str(tokenizer_json))
        self._plain.encode_special_tokens = True
        self._bos = bos_token_id
        self._controls = {
            token.content: token_id
            for token_id, token in self._plain.get_added_tokens_decoder().items()
            if token.special
        }
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)))
        vocabulary = self._plain.get_vocab()
        # Every token id is at most this many characters, so text has at least len/this tokens.
        self.longest_token = max(map(len, vocabulary), default=1)

    def encode_trusted(self, text: str) -> list[int]:
        """A raw prompt: special tokens in it are special; it begins with exactly one BOS."""
        ids: list[int] = self._trusting.encode(text, add_special_tokens=False).ids
        return ids if ids[:1] == [self._bos] else [self._bos, *ids]

    def encode_pieces(self, pieces: Iterable[tuple[str, bool]]) -> list[int]:
        """Pieces (text, whether it is trusted): only trusted ones can hold special tokens.

        Text between two special tokens is encoded as one, across pieces, so that the ids of
        harmless messages equal those of encoding the whole string.
        """
        ids: list[int] = []
        run: list[str] = []
        for text, trusted in pieces:
            position = 0
            for match in self._control_pattern.finditer(text) if trusted else ():
                run.append(text[position : match.start()])
                ids += self._encode_plain(run)
                ids.append(self._controls[match[0]])
                run, position = [], match.end()
            run.append(text[position:])
        ids += self._encode_plain(run)
        return ids if ids[:1] == [self._bos] else [self._bos, *ids]

    def encode_plain(self, text: str) -> list[int]:
        """Text alone: nothing in it is special, and no BOS comes before it."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids if text else []
        return ids

    def _encode_plain(self, run: list[str]) -> list[int]:
        return self.encode_plain("".join(run))
