"""Text -> token ids, once for trusted text and once for a user's words.

Two `tokenizers.Tokenizer` objects read the same tokenizer.json, because whether special tokens
are recognised is a setting of the object, shared by all threads, and not of a call.
"""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from user_words import HIDDEN, RenderedPrompt, reveal

# No text that anyone writes has so many in the mean: English has 4 to 5, indented JSON 8. Single
# tokens have up to 128, all of them runs of one character.
BYTES_A_TOKEN = 16


class PromptTooLong(ValueError):
    """The text is refused unencoded; the message says its size and what is allowed."""


class TokenizerFault(ValueError):
    """tokenizer.json cannot be used; one sentence says why."""


class PromptEncoder:
    """Encodes with the tokenizer of a checkpoint; never adds a token by itself but one BOS."""

    def __init__(self, tokenizer_json: Path, bos_token_id: int) -> None:
        """Raises `TokenizerFault`, also for a tokenizer whose control tokens words could become."""
        self._trusting = _load(tokenizer_json)
        self._plain = _load(tokenizer_json)
        self._plain.encode_special_tokens = True
        self._bos = bos_token_id
        self._controls = {
            token.content: token_id
            for token_id, token in self._plain.get_added_tokens_decoder().items()
            if token.special and _checked(token)
        }
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)))
        vocabulary = self._plain.get_vocab()
        if not set(self._controls.values()).isdisjoint(
            self._plain.get_vocab(with_added_tokens=False).values()
        ):
            raise TokenizerFault("a control token is a word of the vocabulary too")
        # Every token id is at most this many characters, so text has at least len/this tokens.
        self.longest_token = max(map(len, vocabulary), default=1)

    def encode_trusted(self, text: str, most: int | None = None) -> list[int]:
        """A raw prompt: special tokens in it are special; it begins with exactly one BOS.

        Raises `PromptTooLong`, without encoding, for text that `most` tokens cannot hold.
        """
        _check_size(text, most)
        ids: list[int] = self._trusting.encode(text, add_special_tokens=False).ids
        return self._with_bos(ids)

    def encode_rendered(self, prompt: RenderedPrompt, most: int | None = None) -> list[int]:
        """What a chat template rendered: its control tokens are special, a user's words are not.

        The ids are those of `apply_chat_template` of transformers if no word of a user is a
        control token. Raises `PromptTooLong` as `encode_trusted` does.
        """
        _check_size(reveal(prompt), most)
        ids: list[int] = []
        position = 0
        for match in self._control_pattern.finditer(prompt):
            ids += self.encode_plain(reveal(prompt[position : match.start()]))
            ids.append(self._controls[match[0]])
            position = match.end()
        ids += self.encode_plain(reveal(prompt[position:]))
        return self._with_bos(ids)

    def encode_plain(self, text: str) -> list[int]:
        """Text alone: nothing in it is special, and no BOS comes before it."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids if text else []
        return ids

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == [self._bos] else [self._bos, *ids]


def _load(tokenizer_json: Path) -> Tokenizer:
    """Without the file's truncation and padding: training left them there, and they are no part
    of a prompt (transformers ignores them too)."""
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerFault(" ".join(str(error).split())[:200]) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _checked(token: AddedToken) -> bool:
    """True, for a control token that is found by its text alone, and by its first character."""
    if not token.content.startswith(HIDDEN):
        raise TokenizerFault(f"the control token {token.content!r} does not begin with {HIDDEN!r}")
    if token.lstrip or token.rstrip or token.single_word:
        raise TokenizerFault(f"the control token {token.content!r} depends on the text around it")
    return True


def _check_size(text: str, most: int | None) -> None:
    size = len(text.encode())
    if most is not None and size > BYTES_A_TOKEN * most:
        raise PromptTooLong(
            f"the prompt has {size} bytes, allowed are {BYTES_A_TOKEN * most}: "
            f"{BYTES_A_TOKEN} for each of {most} tokens"
        )
