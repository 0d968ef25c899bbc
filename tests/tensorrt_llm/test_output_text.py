"""Incremental text against its plain definition: join the bytes, decode, cut at the stop string."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from response_outputs.text import (
    OutputText,
    StopWord,
    TextSpan,
    TokenBytes,
    find_stops,
    whole_characters,
)
from token_text import TokenIdError, TokenText

# Tokens that split characters and stop strings in every way: pieces of é 日 😀 and ASCII.
VOCABULARY = [
    b"a", b"b", b"c", b" ", b"ab", b"abc", b"bc ", b"\xc3", b"\xa9", b"\xe6", b"\x97\xa5",
    b"\xe6\x97",
    b"\xa5", b"\xf0\x9f", b"\x98\x80", b"\xf0", b"\x9f\x98", b"\x80", b"\xff", b"c\xc3", b"\xa9a",
    b"",  # an id without text
]  # fmt: skip
SPECIAL = len(VOCABULARY)
STOPS = ["ab", "bca", "c", "é", "日", "a😀", "aab", " "]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "token_bytes.npz"
    tokens = [*VOCABULARY, b"<|special|>"]
    offsets = np.cumsum([0, *map(len, tokens)]).astype(np.uint32)
    data = np.frombuffer(b"".join(tokens), np.uint8)
    special = np.array([index == SPECIAL for index in range(len(tokens))])
    np.savez(path, offsets=offsets, data=data, special=special)
    return path


def plain_bytes(ids: list[int]) -> bytes:
    return b"".join(b"" if i == SPECIAL else VOCABULARY[i] for i in ids)


def first_stop(data: bytes, stops: list[str]) -> tuple[int, int] | None:
    """(end, begin) of the stop string that is complete first, or of the earliest of several."""
    hits = [
        (end, end - len(stop.encode()))
        for end in range(1, len(data) + 1)
        for stop in stops
        if data[:end].endswith(stop.encode())
    ]
    return min(hits, default=None)


def generate(
    table: Path, ids: list[int], chunks: list[int], takes: list[bool], stops: list[str]
) -> tuple[list[str], bool]:
    """Feed `ids` in chunks, send a span where `takes` says; returns (texts, stopped)."""
    text, decoder = (
        OutputText(TokenBytes(table), [stop.encode() for stop in stops]),
        TokenText(table),
    )
    texts, since, position, turn, stopped = [], [], 0, 0, False
    span = text.next_span()
    while position < len(ids) and not stopped:
        size = chunks[turn % len(chunks)]
        delta = ids[position : position + size]
        position += size
        since += delta
        stopped = text.feed(delta) is not None
        if takes[turn % len(takes)] and not stopped:
            texts.append(span_text(decoder, since, span))
            since, span = [], text.next_span()
        turn += 1
    if not stopped:
        text.finish()
    texts.append(span_text(decoder, since, span))
    return texts, stopped


def span_text(decoder: TokenText, ids: list[int], span: TextSpan) -> str:
    return decoder.decode(ids, span.carry, span.hold)


TOKENS = st.lists(st.integers(0, SPECIAL), max_size=30)
CHUNKS = st.lists(st.integers(1, 5), min_size=1, max_size=6)
TAKES = st.lists(st.booleans(), min_size=1, max_size=6)


@given(ids=TOKENS, chunks=CHUNKS, takes=TAKES)
def test_joined_deltas_equal_the_whole_text(
    table: Path, ids: list[int], chunks: list[int], takes: list[bool]
) -> None:
    texts, stopped = generate(table, ids, chunks, takes, [])
    assert not stopped
    assert "".join(texts) == plain_bytes(ids).decode(errors="replace")


@given(ids=TOKENS, chunks=CHUNKS, takes=TAKES, stops=st.lists(st.sampled_from(STOPS), max_size=4))
def test_stop_string_cuts_where_the_plain_definition_cuts(
    table: Path, ids: list[int], chunks: list[int], takes: list[bool], stops: list[str]
) -> None:
    texts, stopped = generate(table, ids, chunks, takes, stops)
    found = first_stop(plain_bytes(ids), stops)
    assert stopped == (found is not None)
    cut = len(plain_bytes(ids)) if found is None else found[1]
    assert "".join(texts) == plain_bytes(ids)[:cut].decode(errors="replace")


ASCII = [index for index, token in enumerate(VOCABULARY) if token and token.isascii()]
OVERLAPPING = ["ab", "bca", "c", "abc", "aab", "bc a"]


@settings(max_examples=500)
@given(
    ids=st.lists(st.sampled_from(ASCII), min_size=2, max_size=12),
    chunks=CHUNKS,
    takes=TAKES,
    stops=st.lists(st.sampled_from(OVERLAPPING), min_size=2, max_size=4),
)
def test_of_overlapping_stop_strings_the_first_complete_one_wins(
    table: Path, ids: list[int], chunks: list[int], takes: list[bool], stops: list[str]
) -> None:
    texts, _ = generate(table, ids, chunks, takes, stops)
    found = first_stop(plain_bytes(ids), stops)
    cut = len(plain_bytes(ids)) if found is None else found[1]
    assert "".join(texts) == plain_bytes(ids)[:cut].decode()


@given(ids=TOKENS, stops=st.lists(st.sampled_from(STOPS), max_size=3))
def test_only_what_may_still_change_is_held_back(
    table: Path, ids: list[int], stops: list[str]
) -> None:
    """Text is held back only if it is an unfinished character or may begin a stop string."""
    text, sent = OutputText(TokenBytes(table), [stop.encode() for stop in stops]), 0
    for index, token in enumerate(ids):
        span = text.next_span()
        if text.feed([token]) is not None:
            return
        sent += len(span.carry) + len(plain_bytes([token])) - span.hold
        data = plain_bytes(ids[: index + 1])
        begins = (stop.encode()[:size] for stop in stops for size in range(1, len(stop.encode())))
        longest = max((len(begin) for begin in begins if data.endswith(begin)), default=0)
        assert sent >= whole_characters(data, len(data) - longest)


@pytest.mark.parametrize(
    ("data", "sendable"),
    [
        (b"a\xe6\x97", 1),  # two of three bytes of a character
        (b"a\xf0\x9f\x98", 1),
        (b"a\xe0\x80", 3),  # the beginning of no character: it is replaced, not waited for
        (b"a\xf4\x90", 3),
        (b"a\xff", 2),
        (b"a\x80\x80\x80\x80", 5),
        (b"\xe6\x97\xa5", 3),
        (b"", 0),
    ],
)
def test_an_unfinished_character_is_held_back(data: bytes, sendable: int) -> None:
    assert whole_characters(data, len(data)) == sendable


@given(data=st.binary(max_size=8))
def test_a_cut_leaves_decoding_unchanged(data: bytes) -> None:
    cut = whole_characters(data, len(data))
    for rest in (b"", b"a", b"\x80", b"\xa9", b"\xc3\xa9"):
        apart = data[:cut].decode(errors="replace") + (data[cut:] + rest).decode(errors="replace")
        assert apart == (data + rest).decode(errors="replace")


def test_an_unknown_token_id_is_refused_by_name(table: Path) -> None:
    with pytest.raises(TokenIdError, match="TOKENS_BATCH holds 99 and must hold ids from 0 to 22"):
        TokenText(table).decode([99])


def test_stop_inside_a_token_and_across_tokens(table: Path) -> None:
    text = OutputText(TokenBytes(table), [b"ca", b"zz"])
    abc, a = VOCABULARY.index(b"abc"), VOCABULARY.index(b"a")
    span = text.next_span()
    assert text.feed([abc]) is None
    assert span == TextSpan(b"", 1)  # "ab" goes out, "c" may begin "ca"
    span = text.next_span()
    assert text.feed([a]) == b"ca"
    assert span == TextSpan(b"", 1)  # neither the held "c" nor "a" is text


@given(ids=TOKENS, chunks=CHUNKS, stops=st.lists(st.sampled_from(STOPS), max_size=4))
def test_an_included_stop_word_ends_the_text(
    table: Path, ids: list[int], chunks: list[int], stops: list[str]
) -> None:
    text = OutputText(TokenBytes(table), [stop.encode() for stop in stops], include_stop=True)
    joined = fed_in_chunks(text, TokenText(table), ids, chunks)
    found = first_stop(plain_bytes(ids), stops)
    end = len(plain_bytes(ids)) if found is None else found[0]
    assert joined == plain_bytes(ids)[:end].decode(errors="replace")


@given(ids=TOKENS, chunks=CHUNKS, early=st.integers(0, 9))
def test_a_stop_word_counts_only_after_the_tokens_that_may_not_stop(
    table: Path, ids: list[int], chunks: list[int], early: int
) -> None:
    """Earlier tokens take no part in a match, not even in its beginning."""
    text, decoder = OutputText(TokenBytes(table), [b"ab", b"c"]), TokenText(table)
    span = text.next_span()
    text.feed(ids[:early], may_stop=False)
    before = span_text(decoder, ids[:early], span)
    after = fed_in_chunks(text, decoder, ids[early:], chunks)
    found = first_stop(plain_bytes(ids[early:]), ["ab", "c"])
    end = len(plain_bytes(ids)) if found is None else len(plain_bytes(ids[:early])) + found[1]
    assert before + after == plain_bytes(ids)[:end].decode(errors="replace")


@given(ids=TOKENS, chunks=CHUNKS)
@example(ids=[0, SPECIAL, 1], chunks=[1])
def test_special_tokens_are_text_when_kept(table: Path, ids: list[int], chunks: list[int]) -> None:
    text = OutputText(TokenBytes(table), keep_special=True)
    whole = b"".join(b"<|special|>" if i == SPECIAL else VOCABULARY[i] for i in ids)
    joined = fed_in_chunks(text, TokenText(table), ids, chunks, keep_special=True)
    assert joined == whole.decode(errors="replace")


def fed_in_chunks(
    text: OutputText,
    decoder: TokenText,
    ids: list[int],
    chunks: list[int],
    keep_special: bool = False,
) -> str:
    """The text of `ids`, fed in chunks until a stop word, with one response per chunk."""
    joined, position, turn, stopped = "", 0, 0, False
    while position < len(ids) and not stopped:
        delta = ids[position : position + chunks[turn % len(chunks)]]
        position, turn = position + len(delta), turn + 1
        span = text.next_span()
        stopped = text.feed(delta) is not None
        joined += decoder.decode(delta, span.carry, span.hold, keep_special)
    if not stopped:
        span = text.next_span()
        text.finish()
        joined += span_text(decoder, [], span)
    return joined


def test_stop_words_as_ids_and_special_tokens(table: Path) -> None:
    words = [StopWord(text="<|special|>"), StopWord(ids=(0, 1)), StopWord(text="ab"), StopWord()]
    special = b"<|special|>"
    assert find_stops(words, TokenBytes(table)) == ((special, b"ab"), {SPECIAL: "<|special|>"})
    as_id = find_stops([StopWord(ids=(SPECIAL,))], TokenBytes(table))
    assert as_id == ((special,), {SPECIAL: "<|special|>"})
