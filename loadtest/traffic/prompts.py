"""Synthetic text of an exact number of tokens, through the served checkpoint's tokenizer.

The text consists of words that are one token each, with the space before them: the tokenizer splits
at spaces, so n words are n tokens. If the tokenizer puts begin-of-text before a text, the server
counts one more.
"""

from __future__ import annotations

import random
from pathlib import Path

MOST_TOKENS = 1_000_000  # of a prompt: beyond any context, and memory is limited
MIN_WORDS = 16
SAMPLE = 200  # words of the text that checks a tokenizer


class PromptError(ValueError):
    """The tokenizer cannot be used; one sentence with the file and the reason."""


class PromptWriter:
    """Writes texts of exact length; the same random generator gives the same text."""

    def __init__(self, tokenizer_json: Path) -> None:
        """Raises `PromptError`."""
        if not tokenizer_json.is_file():
            raise PromptError(
                f"there is no tokenizer at {tokenizer_json}; name the served checkpoint's "
                "tokenizer.json with --tokenizer"
            )
        from tokenizers import Tokenizer  # not for --help, which any Python can print

        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        except Exception as error:  # tokenizers raises bare Exception
            raise PromptError(f"the tokenizer {tokenizer_json} cannot be read: {error}") from error
        self._tokenizer.no_truncation()  # a setting of the training
        self._tokenizer.no_padding()
        begun = self._tokenizer.encode("a", add_special_tokens=True).ids
        self._before = len(begun) - self.count("a")  # begin-of-text; some tokenizers have none
        self._words = self._single_token_words()
        text = "".join(random.Random(0).choices(self._words, k=SAMPLE)) if self._words else ""
        if len(self._words) < MIN_WORDS or self.count(text) != SAMPLE:
            raise PromptError(
                f"the tokenizer {tokenizer_json} does not split text at spaces, "
                "so it cannot make texts of an exact number of tokens"
            )

    def count(self, text: str) -> int:
        """Tokens of a text, without the prompt's beginning."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def prompt(self, tokens: int, generator: random.Random) -> str:
        """A raw prompt that the server counts as `tokens`; at least 2."""
        return self.text(max(tokens - self._before, 1), generator)

    def text(self, tokens: int, generator: random.Random) -> str:
        """A text of so many tokens; it begins with a space."""
        return "".join(generator.choices(self._words, k=tokens))

    def _single_token_words(self) -> list[str]:
        words = []
        for token_id in range(self._tokenizer.get_vocab_size()):
            text = self._tokenizer.decode([token_id], skip_special_tokens=False)
            word = text[1:]
            if (
                text[:1] == " "
                and len(word) > 1
                and word.isascii()
                and word.isalpha()
                and word.islower()
                and self._tokenizer.encode(text, add_special_tokens=False).ids == [token_id]
            ):
                words.append(text)
        return words
