"""Text -> token ids, once for trusted text and once for a user's words.

Two `tokenizers.Tokenizer` objects read the same tokenizer.json, because the setting that
recognises special tokens belongs to the object, which all threads share, and not to a call.

Control tokens are the added tokens that tokenizer.json or the files beside it call special, those
whose id ends a generation, and those in the chat template that are not spelled like words. They
stay text where a user writes them. All other added tokens are words that training has added, and
are recognised everywhere, as in transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from user_words import RenderedPrompt, Words, shadow_of, text_of

# More than any real text has on average: English has 4 to 5, indented JSON 8. Single tokens have up
# to 128, all of them runs of one character.
BYTES_A_TOKEN = 16
LIKE_WORDS = re.compile(r"(?:[^\W_]|[\s'\u2019.,-])+")  # a template may say them in its sentences


class PromptTooLong(ValueError):
    """The text is too long to encode; the message names its size and the limit."""


class TokenizerFault(ValueError):
    """tokenizer.json cannot be used; one sentence says why."""


class PromptEncoder:
    """Encodes with the tokenizer of a checkpoint; never adds a token by itself but one BOS."""

    def __init__(
        self,
        tokenizer_json: Path,
        bos_token_id: int,
        end_token_ids: Collection[int] = (),
        control_tokens: Collection[str] = (),
        template_text: str = "",
    ) -> None:
        """`control_tokens` and `template_text`: what the files beside tokenizer.json call special
        tokens, and what the chat templates themselves write.

        Raises `TokenizerFault`, also for a tokenizer whose control tokens words could become.
        """
        document = _read(tokenizer_json)
        self._trusting = _tokenizer(document)
        self._normalizes = document.get("normalizer") is not None
        self._controls = {
            token.content: (token_id, token)
            for token_id, token in self._trusting.get_added_tokens_decoder().items()
            if token.special
            or token_id in end_token_ids
            or token.content in control_tokens
            or (token.content in template_text and not LIKE_WORDS.fullmatch(token.content))
        }
        self._plain = _tokenizer(_without_controls(document, self._controls))
        self._plain.encode_special_tokens = True
        self._check_controls()
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._control_ids = {token_id for token_id, _ in self._controls.values()}
        # Every token id is at most this many characters, so text has at least len/this tokens.
        self.longest_token = max(map(len, self._trusting.get_vocab()), default=1)
        # A tokenizer that puts no BOS before a text belongs to a model trained without one.
        begun = self._trusting.encode("a", add_special_tokens=True).ids
        self._begin = [bos_token_id] if bos_token_id in begun[:-1] else []

    def encode_trusted(self, text: str, most: int | None = None) -> list[int]:
        """A raw prompt: special tokens in it are special; it begins with exactly one BOS, if the
        tokenizer begins its texts with one.

        Raises `PromptTooLong`, without encoding, for text that `most` tokens cannot hold.
        """
        if isinstance(text, Words):
            raise TypeError("a rendered prompt is no raw one: encode_rendered reads it")
        _check_size(text, most)
        ids: list[int] = self._trusting.encode(text, add_special_tokens=False).ids
        return self._with_bos(ids)

    def encode_rendered(self, prompt: RenderedPrompt, most: int | None = None) -> list[int]:
        """What a chat template rendered: its control tokens are special, a user's words are not.

        The ids are those of `apply_chat_template` of transformers if no word of a user is a
        control token, but for a BOS that the tokenizer asks for and the template forgot. Raises
        `PromptTooLong` as `encode_trusted` does.
        """
        text, shadow = text_of(prompt), shadow_of(prompt)
        _check_size(text, most)
        own = [
            match.span()
            for match in self._control_pattern.finditer(shadow)
            if text.startswith(match[0], match.start())
        ]
        if own == [match.span() for match in self._control_pattern.finditer(text)]:
            encoding = self._trusting.encode(text, add_special_tokens=False)
            ids: list[int] = encoding.ids
            expected = [self._controls[text[start:end]][0] for start, end in own]
            if [token_id for token_id in ids if token_id in self._control_ids] == expected and (
                not self._normalizes or self._stand_at(encoding, own)
            ):
                return self._with_bos(ids)
        return self._with_bos(self._apart(text, own))

    def encode_plain(self, text: str) -> list[int]:
        """Text alone: nothing in it is special, and no BOS comes before it."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids if text else []
        return ids

    def _stand_at(self, encoding: Any, controls: list[tuple[int, int]]) -> bool:
        """Whether the control tokens come from these places of the text, and from no other text
        that normalization has made one."""
        found = [
            place
            for token_id, place in zip(encoding.ids, encoding.offsets, strict=True)
            if token_id in self._control_ids
        ]
        return all(
            begin <= start and end <= stop
            for (begin, stop), (start, end) in zip(found, controls, strict=True)
        )

    def _apart(self, text: str, controls: list[tuple[int, int]]) -> list[int]:
        """The control tokens at these places, and the text between them without any other."""
        ids: list[int] = []
        position = 0
        for start, end in controls:
            token_id, token = self._controls[text[start:end]]
            if token.single_word and _joins_words(text, start, end):
                continue
            before = text[position:start]
            ids += self.encode_plain(before.rstrip() if token.lstrip else before)
            ids.append(token_id)
            position = end
            if token.rstrip:
                position += len(text[end:]) - len(text[end:].lstrip())
        return ids + self.encode_plain(text[position:])

    def _check_controls(self) -> None:
        for content, (token_id, _) in self._controls.items():
            for text in (content, f" {content}", f"a{content}a"):
                if token_id in self.encode_plain(text):
                    raise TokenizerFault(
                        f"the control token {content!r} is a word of the vocabulary too, which any "
                        "text may hold"
                    )

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == self._begin[:1] else [*self._begin, *ids]


def _read(tokenizer_json: Path) -> dict[str, Any]:
    """tokenizer.json without its truncation and padding: training left them there, and they are no
    part of a prompt (transformers ignores them too)."""
    try:
        document = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerFault(f"it is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise TokenizerFault("it is not an object of JSON")
    return {**document, "truncation": None, "padding": None}


def _tokenizer(document: dict[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerFault(" ".join(str(error).split())[:200]) from None


def _without_controls(document: dict[str, Any], controls: Collection[str]) -> dict[str, Any]:
    """The same tokenizer, but `encode_special_tokens` can make it ignore every control token.

    The library ignores only those that are marked special and are no words of the vocabulary.
    """
    model = document["model"]
    vocabulary = model.get("vocab")
    known = set(controls).intersection(vocabulary) if isinstance(vocabulary, dict) else set()
    added = [
        {**token, "special": token["special"] or token["content"] in controls}
        for token in document.get("added_tokens") or ()
        if token["content"] not in known
    ]
    if known:
        # No text has the character 0 in its byte-level form, so that no text becomes such a word.
        model = {
            **model,
            "vocab": {f"\0{w}" if w in known else w: number for w, number in vocabulary.items()},
            "merges": [merge for merge in model.get("merges") or () if _spares(merge, known)],
        }
    return {**document, "added_tokens": added, "model": model}


def _spares(merge: str | list[str], words: Collection[str]) -> bool:
    """Whether neither part of a merge, nor what it makes, is one of the words."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    return not any(part in words for part in (*pair, "".join(pair)))


def _joins_words(text: str, start: int, end: int) -> bool:
    """Whether a letter, a digit or _ stands directly before or after."""
    return bool(
        re.fullmatch(r"\w", text[start - 1 : start]) or re.match(r"\w", text[end : end + 1])
    )


def _check_size(text: str, most: int | None) -> None:
    size = len(text.encode())
    if most is not None and size > BYTES_A_TOKEN * most:
        raise PromptTooLong(
            f"the prompt has {size} bytes and must have at most {BYTES_A_TOKEN * most}: "
            f"{BYTES_A_TOKEN} for each of {most} tokens"
        )
