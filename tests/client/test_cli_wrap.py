"""An answer is wrapped at a terminal's margin, in whatever pieces it comes."""

from __future__ import annotations

import io
import os
import textwrap
from random import Random

import pytest
from llama_fp4.cli.wrap import Wrapped, text_width, wrapped

WORDS = ["a", "of", "robot", "called", "Tom,", "extraordinary", "sentences.", "I"]


class Screen(io.StringIO):
    """A terminal with this many columns; 0: unknown."""

    def __init__(self, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        size = os.terminal_size((columns, 24))
        monkeypatch.setattr("llama_fp4.cli.wrap.os.get_terminal_size", lambda _: size)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1


def pieces(text: str, rng: Random) -> list[str]:
    """The text in tokens of one to nine characters."""
    found = []
    while text:
        length = rng.randint(1, 9)
        found.append(text[:length])
        text = text[length:]
    return found


def written(screen: Screen, parts: list[str]) -> str:
    answer = Wrapped(screen)
    for part in parts:
        answer.write(part)
    answer.flush()
    return screen.getvalue()


@pytest.mark.parametrize("columns", [20, 33, 80])
@pytest.mark.parametrize("seed", range(5))
def test_lines_are_those_of_textwrap(
    columns: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = Random(seed)
    text = " ".join(rng.choices(WORDS, k=200))
    said = written(Screen(columns, monkeypatch), pieces(text, rng))
    assert said.splitlines() == textwrap.wrap(text, columns - 1, break_long_words=False)


def test_paragraphs_and_indents_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "One:\n\n    def f(x):\n\treturn x  \n- a\n- b \n"
    assert written(Screen(40, monkeypatch), list(text)) == text


def test_a_line_as_wide_as_the_terminal_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "abcd efgh ijkl mnop"  # 19 of 20 columns
    assert written(Screen(20, monkeypatch), list(text)) == text
    assert written(Screen(20, monkeypatch), [f"{text}q"]) == "abcd efgh ijkl\nmnopq"


def test_a_word_that_is_longer_than_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is broken at the margin, and the text continues after it."""
    screen = Screen(20, monkeypatch)
    answer = Wrapped(screen)
    answer.write("see " + "x" * 50)
    assert screen.getvalue().count("x") == 38
    answer.write(" end")
    answer.flush()
    assert screen.getvalue().splitlines() == ["see", "x" * 19, "x" * 19, "x" * 12 + " end"]


@pytest.mark.parametrize(
    "text",
    [
        "東京タワーの近くで美味しいラーメンを食べました。それから帰りました。",
        "좋은 아침입니다 " * 9,
        "😀👍🏽👨\u200d👩\u200d👧❤️" * 12,
    ],
)
def test_wide_characters_fit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = written(Screen(24, monkeypatch), list(text))
    assert all(text_width(line) <= 23 for line in said.splitlines())
    assert max(text_width(line) for line in said.splitlines()) > 16
    assert said.replace("\n", "").replace(" ", "") == text.replace(" ", "")
    assert not any(line.startswith(("。", "\u200d", "🏽", "\ufe0f")) for line in said.splitlines())


@pytest.mark.parametrize(
    ("text", "width"),
    [("ab", 2), ("東京", 4), ("é", 1), ("e\u0301", 1), ("👍🏽", 2), ("👨\u200d👩\u200d👧", 2),
     ("❤️", 2), ("🇩🇪", 2), ("ﾊﾝｶｸ", 4)],
)  # fmt: skip
def test_widths(text: str, width: int) -> None:
    assert text_width(text) == width


def test_a_window_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(40, monkeypatch)
    answer = Wrapped(screen)
    answer.write("one two three four five six seven ")
    size = os.terminal_size((24, 24))
    monkeypatch.setattr("llama_fp4.cli.wrap.os.get_terminal_size", lambda _: size)
    answer.write("eight nine ten\neleven twelve thirteen fourteen")
    answer.flush()
    assert screen.getvalue().splitlines()[-2:] == ["eleven twelve thirteen", "fourteen"]


def test_no_terminal_or_no_width_means_no_wrapping(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "word " * 40
    assert wrapped(io.StringIO(), text) == text
    for columns in (0, 5):
        assert wrapped(Screen(columns, monkeypatch), text) == text
