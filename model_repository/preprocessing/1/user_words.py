"""Text that remembers which of its characters a user wrote, while a chat template works on it.

A chat template writes control tokens such as <|eot_id|> between the messages, and a message's
words may spell the same. `Words` is a `str` with the words' real text, so that a template compares,
searches, splits and trims them like any text. It also has a shadow of the same length, in which a
stand-in replaces every character of a user. What a method of `str` makes of words has a shadow
too. A control token found in the shadow is the template's own.

Where the origin of a result cannot be followed, all of it counts as the user's: a control token of
the template may then become text, but no word of a user becomes a control token.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NewType, SupportsIndex

from jinja2 import Undefined

# A lone surrogate: not Unicode text, so no control token can hold it.
STAND_IN = "\udc3c"
ESCAPED = r"\udc3c"  # how Python prints it in a list, an object or with %r
FORM_SYNTAX = "%{}"
TAB_SYNTAX = "\t\n\r"

# What a template rendered. Only `PromptEncoder.encode_rendered` reads it.
RenderedPrompt = NewType("RenderedPrompt", str)


class Words(str):
    """A text some of whose characters a user wrote; without a shadow, all of them."""

    __slots__ = ("_shadow",)
    _shadow: str | None

    def __new__(cls, text: str, shadow: str | None = None) -> Words:
        """A shadow of another length does not fit the text, and is dropped."""
        words = super().__new__(cls, text)
        words._shadow = shadow if shadow is not None and len(shadow) == len(text) else None
        return words

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> Words:
        shadow = self._shadow
        return Words(str.__getitem__(self, key), None if shadow is None else shadow[key])

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __add__(self, other: str) -> str:
        return concatenated((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return concatenated((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> Words:
        return Words(str.__mul__(self, count), self._shadow and self._shadow * count)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> Words:
        return followed(operator.mod, self, values, syntax=FORM_SYNTAX)

    def __rmod__(self, form: Any) -> Words:
        return followed(operator.mod, form, self, syntax=FORM_SYNTAX)

    def join(self, parts: Iterable[str], /) -> str:
        return joined(self, parts)

    def strip(self, characters: str | None = None, /) -> Words:
        return self.lstrip(characters).rstrip(characters)

    def lstrip(self, characters: str | None = None, /) -> Words:
        return self[len(self) - len(str.lstrip(self, characters)) :]

    def rstrip(self, characters: str | None = None, /) -> Words:
        return self[: len(str.rstrip(self, characters))]

    def removeprefix(self, prefix: str, /) -> Words:
        return self[len(self) - len(str.removeprefix(self, prefix)) :]

    def removesuffix(self, suffix: str, /) -> Words:
        return self[: len(str.removesuffix(self, suffix))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines: list[str] = []
        start = 0
        whole = str.splitlines(self, True)
        for line, kept in zip(whole, str.splitlines(self, keepends), strict=True):
            lines.append(self[start : start + len(kept)])
            start += len(line)
        return lines

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, middle, _ = str.partition(self, sep)
        start, end = len(before), len(before) + len(middle)
        return self[:start], self[start:end], self[end:]

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, middle, _ = str.rpartition(self, sep)
        start, end = len(before), len(before) + len(middle)
        return self[:start], self[start:end], self[end:]

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if old:
            return joined(new, self.split(old, count)) if old in self else self
        most = operator.index(count)
        times = len(self) + 1 if most < 0 else min(most, len(self) + 1)
        parts = [part for index in range(times) for part in (new, self[index : index + 1])]
        return concatenated([*parts, self[times:]])

    def translate(self, table: Any, /) -> Words:
        return Words(str.translate(self, table))

    def _found(self, pieces: list[str], sep: str | None = None) -> list[str]:
        """The pieces of a split, each cut from its place in the text."""
        found: list[str] = []
        position = 0
        for piece in pieces:
            # Only separators come before a piece, and none of those begins like it.
            start = position if sep is not None else self.find(piece, position)
            position = start + len(piece)
            found.append(self[start:position])
            position += len(sep or "")
        return found


def _same_method(name: str) -> Callable[..., Words]:
    method = getattr(str, name)

    def apply(self: Words, *arguments: Any) -> Words:
        if self._shadow is None and not arguments:
            return Words(method(self))
        return followed(method, self, *arguments, syntax=TAB_SYNTAX if name == "expandtabs" else "")

    return apply


# They keep every character in its place, or add some: the shadow shows where.
for _name in (
    "capitalize", "casefold", "center", "expandtabs", "ljust", "lower", "rjust", "swapcase",
    "title", "upper", "zfill",
):  # fmt: skip
    setattr(Words, _name, _same_method(_name))


class _OriginUnknown(Exception):
    """The words in an object cannot be found."""


def words_of(value: Any) -> Any:
    """A copy of a JSON value in which every text is a user's, keys too."""
    if isinstance(value, str):
        return Words(value)
    if isinstance(value, list):
        return [words_of(item) for item in value]
    if isinstance(value, dict):
        return {words_of(key): words_of(item) for key, item in value.items()}
    return value


def text_of(text: str) -> str:
    """The text alone, as a plain `str`."""
    return str.__str__(text)


def shadow_of(text: str) -> str:
    """The text with a stand-in for each character of a user."""
    if not isinstance(text, Words):
        return text_of(text)
    return STAND_IN * len(text) if text._shadow is None else text._shadow


def concatenated(parts: Iterable[str]) -> str:
    """The parts one after the other; a plain `str` where no part is a user's."""
    pieces = list(parts)
    text = "".join(pieces)
    if not any(isinstance(piece, Words) for piece in pieces):
        return text
    if all(isinstance(piece, Words) and piece._shadow is None for piece in pieces):
        return Words(text)
    return Words(text, "".join(map(shadow_of, pieces)))


def joined(separator: str, parts: Iterable[str]) -> str:
    """`separator.join(parts)`."""
    pieces: list[str] = []
    for part in parts:
        pieces += (separator, part)
    return concatenated(pieces[1:])


def followed(function: Callable[..., str], *arguments: Any, syntax: str = "") -> Words:
    """What `function` makes of the arguments, their texts and then their shadows.

    `function` must place characters by their number and not by what they are, except those in
    `syntax`: if a user wrote one of them into the first argument, all of the result is the user's.
    The same holds where words were printed with escapes, as in a list. Otherwise words of chosen
    lengths could move a user's text to where the shadow has the template's control token.
    """
    text = function(*(_mapped(argument, text_of) for argument in arguments))
    form = arguments[0]
    if any(text_of(form).count(sign) != shadow_of(form).count(sign) for sign in syntax):
        return Words(text)
    try:
        shadow = function(*(_mapped(argument, shadow_of) for argument in arguments))
    except Exception:  # whatever it is: making the text itself worked
        return Words(text)
    return Words(text, None if ESCAPED in shadow else shadow)


def holds_words(value: Any) -> bool:
    """Whether there are, or could be, words of a user in a value."""
    try:
        return _search(value)
    except _OriginUnknown:
        return True


def _search(value: Any) -> bool:
    if isinstance(value, Words):
        return True
    if isinstance(value, dict):
        return any(_search(key) or _search(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_search, value))
    if value is None or isinstance(value, str | int | float | Undefined):
        return False
    raise _OriginUnknown


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a value with every text changed; an object that may hide words as it is, where
    texts are asked for, and `_OriginUnknown` where shadows are."""
    if isinstance(value, str):
        return change(value)
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_mapped(item, change) for item in value)
    if type(value) is dict:
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if change is shadow_of and holds_words(value):
        raise _OriginUnknown
    return value
