"""`Words` behaves as the `str` it replaces, and knows which characters a user wrote.

Users write capital letters here and templates small ones, so that a character tells its origin.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from user_words import (
    STAND_IN,
    Words,
    concatenated,
    followed,
    holds_words,
    joined,
    shadow_of,
    text_of,
    words_of,
)

USERS = st.text(alphabet="AB\n ", max_size=6)
TEMPLATES = st.text(alphabet="ab\n ", max_size=6)
SEPARATORS = st.sampled_from(["a", "B", "aB", "\n", " ", "ab", "Ab"])
CHARACTERS = st.sampled_from([None, "a", "B", " \n", "abAB"])
KEPT = {
    "strip": (CHARACTERS,),
    "lstrip": (CHARACTERS,),
    "rstrip": (CHARACTERS,),
    "split": (st.none() | SEPARATORS, st.integers(-1, 3)),
    "rsplit": (st.none() | SEPARATORS, st.integers(-1, 3)),
    "splitlines": (st.booleans(),),
    "partition": (SEPARATORS,),
    "rpartition": (SEPARATORS,),
    "removeprefix": (SEPARATORS,),
    "removesuffix": (SEPARATORS,),
    "replace": (SEPARATORS | st.just(""), st.sampled_from(["x", "", "xyz"]), st.integers(-1, 3)),
    "center": (st.integers(0, 20), st.sampled_from("xy")),
    "ljust": (st.integers(0, 20), st.sampled_from("xy")),
    "rjust": (st.integers(0, 20), st.sampled_from("xy")),
    "zfill": (st.integers(0, 20),),
    "__getitem__": (st.slices(12),),
    "__mul__": (st.integers(-1, 3),),
}
# What gives no text, or is Python's own.
OTHERS = {
    "count", "encode", "endswith", "find", "format", "format_map", "index", "maketrans", "rfind",
    "rindex", "startswith",
}  # fmt: skip


def mixed(data: st.DataObject) -> Words:
    """A text of both."""
    parts = [Words(data.draw(USERS)), data.draw(TEMPLATES), Words(data.draw(USERS))]
    return Words("") + concatenated(parts)  # type: ignore[return-value]


def origins_are_right(text: str) -> bool:
    return all(
        (shadow == STAND_IN) == character.isupper() or character.isspace() or character == "0"
        for character, shadow in zip(text_of(text), shadow_of(text), strict=True)
    )


@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("name", KEPT)
@given(data=st.data())
def test_a_method_gives_what_it_gives_for_text_and_keeps_the_origin(
    name: str, data: st.DataObject
) -> None:
    words = mixed(data)
    arguments = [data.draw(strategy) for strategy in KEPT[name]]
    plain = getattr(text_of(words), name)
    try:
        expected = plain(*arguments)
    except ValueError:  # an empty separator
        with pytest.raises(ValueError, match="empty separator"):
            getattr(words, name)(*arguments)
        return
    found = getattr(words, name)(*arguments)
    assert found == expected
    parts = found if isinstance(found, list | tuple) else [found]
    assert type(found) is type(expected) or isinstance(found, Words)
    assert all(isinstance(part, Words) and origins_are_right(part) for part in parts)


@pytest.mark.parametrize(
    "name", ["upper", "lower", "title", "capitalize", "casefold", "swapcase", "expandtabs"]
)
@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="aBß\tŉ İ", max_size=8), own=st.text(alphabet="aB ß", max_size=4))
def test_a_change_of_letters_never_makes_words_the_templates(
    name: str, text: str, own: str
) -> None:
    words = own + Words(text) + own
    changed = getattr(words, name)()
    assert changed == getattr(own + text + own, name)()
    assert isinstance(changed, Words)
    followed_to_the_end = len(changed) == len(words)
    assert (shadow_of(changed).count(STAND_IN) >= len(text)) or not followed_to_the_end


def test_every_method_that_makes_text_is_one_of_ours() -> None:
    """So that a method of a newer Python does not silently lose the origin."""
    for name in dir(str):
        if not name.startswith(("__", "is")) and name not in OTHERS:
            assert name in vars(Words), name


@pytest.mark.parametrize(
    "make",
    [
        lambda w: "x" + w + "y",
        lambda w: joined("x", [w, "y", w]),
        lambda w: "x".join(["y", "z"]) + w,
        lambda w: "x%sy" % w,  # noqa: UP031
        lambda w: followed(operator.mod, "%s|%-9s", (w, "y")),
        lambda w: followed(operator.mod, "%(a)s-%(b)s", {"a": w, "b": "y"}),
        lambda w: followed("{0}{1[k]:>9}".format, w, {"k": w}),
        lambda w: w % (),
    ],
)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_texts_put_together_keep_the_origin(
    make: Callable[[Any], str], data: st.DataObject
) -> None:
    made = make(mixed(data))
    assert isinstance(made, Words)
    assert origins_are_right(made)


def test_text_of_unknown_origin_is_a_users() -> None:
    words = "a" + Words("B")
    for made in (words.translate({97: "x"}), followed(operator.mod, "<%r>", [words])):
        assert shadow_of(made) == STAND_IN * len(made)
    assert holds_words(object())
    assert holds_words([{"a": (words,)}])
    assert not holds_words([{"a": ("b", 1, None, 2.5, True)}])


def test_words_are_found_where_their_text_is() -> None:
    table = words_of({"a": ["b", {"c": "d"}]})
    assert table["a"] == ["b", {"c": "d"}]
    assert hash(Words("a")) == hash("a")
    assert "b" in table["a"]
    assert {"a": 1}[Words("a")] == 1
    assert [*Words("ab")] == ["a", "b"]
    assert all(isinstance(character, Words) for character in Words("ab"))
    assert isinstance(str(Words("a")), Words)
