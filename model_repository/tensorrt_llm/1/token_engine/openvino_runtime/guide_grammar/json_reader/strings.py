"""Strings of a JSON schema: pattern, format, length and excluded texts, all at once.

Each keyword is a regular language, so that any of them together are one too.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    Call,
    Chars,
    Graph,
    GuideError,
    Node,
    Ranges,
    Repeat,
    Seq,
    one_of,
    overlap,
    single,
    without,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.languages import (
    ANYTHING,
    Language,
    both,
    language_of,
    of_length,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.values import (
    MUST_ESCAPE,
    REST,
    SHORT_ESCAPES,
    STRING,
)
from token_engine.openvino_runtime.guide_grammar.regex import parse_pattern, parse_regex

MOST_LENGTH = 1_000  # that minLength may ask for
ANY_TEXT = Repeat(Chars(ALPHABET), 0, None)

_DAY = (
    "((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)"
    "|02-(0[1-9]|1\\d|2[0-8]))"
)
_DATE = f"([1-9]\\d{{3}}-{_DAY}|[1-9]\\d(0[48]|[2468][048]|[13579][26])-02-29)"
_ZONE = "(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
_TIME = f"([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{{1,6}})?{_ZONE}"
# Without two hyphens as its third and fourth characters: what follows them must decode (RFC 5891).
_LABEL = "L(L|HL|HHL|H(LH|-L)H{0,58}L)?".replace("H", "[A-Za-z0-9\\-]").replace("L", "[A-Za-z0-9]")
_NAME = f"{_LABEL}(\\.{_LABEL})*"
_BYTE = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
_IPV4 = f"{_BYTE}(\\.{_BYTE}){{3}}"
_GROUP = "[0-9a-fA-F]{1,4}"
_IPV6 = (
    f"(({_GROUP}:){{7}}{_GROUP}|({_GROUP}:){{1,7}}:|:(:{_GROUP}){{1,7}}|"
    + "|".join(f"({_GROUP}:){{1,{n}}}(:{_GROUP}){{1,{7 - n}}}" for n in range(1, 7))
    + "|::)"
)
_URL_CHARACTER = "([A-Za-z0-9\\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})"
_PATH = f"(/{_URL_CHARACTER}*)*"
_QUERY = f"(\\?({_URL_CHARACTER}|[/?])*)?(#({_URL_CHARACTER}|[/?])*)?"
_AUTHORITY = (
    "([A-Za-z0-9\\-._~!$&'()*+,;=:]+@)?([A-Za-z0-9\\-._~]+|\\[" + _IPV6 + "\\])(:[0-9]{1,5})?"
)
_URI = (
    f"[A-Za-z][A-Za-z0-9+\\-.]*:(//{_AUTHORITY}{_PATH}|///{_URL_CHARACTER}*{_PATH}"
    f"|{_URL_CHARACTER}+{_PATH}|/({_URL_CHARACTER}+{_PATH})?){_QUERY}"
)
_RELATIVE = (
    f"(//{_AUTHORITY}{_PATH}|/({_URL_CHARACTER}+{_PATH})?"
    f"|([A-Za-z0-9\\-._~!$&'()*+,;=@]|%[0-9A-Fa-f]{{2}})+{_PATH}|){_QUERY}"
)
_DURATION = "P(\\d+W|(\\d+Y(\\d+M(\\d+D)?)?|\\d+M(\\d+D)?|\\d+D)(T{t})?|T{t})".replace(
    "{t}", "(\\d+H(\\d+M(\\d+S)?)?|\\d+M(\\d+S)?|\\d+S)"
)
# Some of the valid forms are left out, where telling them from others takes too much. What is not
# here is an annotation.
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": _DURATION,
    "email": f"[A-Za-z0-9_+\\-]+(\\.[A-Za-z0-9_+\\-]+)*@{_NAME}",
    "idn-email": f"[A-Za-z0-9_+\\-]+(\\.[A-Za-z0-9_+\\-]+)*@{_NAME}",
    "hostname": _NAME,
    "idn-hostname": _NAME,
    "ipv4": _IPV4,
    "ip-address": _IPV4,  # draft 3
    "host-name": _NAME,
    "ipv6": _IPV6,
    "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": _URI,
    "iri": _URI,
    "uri-reference": f"({_URI}|{_RELATIVE})",
    "iri-reference": f"({_URI}|{_RELATIVE})",
    "uri-template": f"(({_URL_CHARACTER}|[/?#])|\\{{[A-Za-z0-9_]+(,[A-Za-z0-9_]+)*\\}})*",
    "json-pointer": "(/([^~/]|~[01])*)*",
    "relative-json-pointer": "(0|[1-9]\\d*)(#|(/([^~/]|~[01])*)*)",
    "regex": "[A-Za-z0-9 _\\-,:;@#%&=<>/!\"'~`]*",
}


@lru_cache(maxsize=512)
def matching(pattern: str) -> Language:
    """The texts in which a pattern is found; raises `GuideError`."""
    return language_of(parse_pattern(pattern).search(ANY_TEXT))


@cache
def of_format(name: str) -> Language:
    """Texts of one of `FORMATS`."""
    return language_of(parse_regex(FORMATS[name]).node)


def with_length(language: Language, least: int, most: int | None, longest: int) -> Language:
    """Those of so many characters; where more are allowed, up to `longest`."""
    if least > MOST_LENGTH:
        raise GuideError(f"has minLength {str(least)[:40]}; it must be at most {MOST_LENGTH}")
    if most is not None:
        most = min(most, max(least, longest))
    return both(language, of_length(least, most)) if least or most is not None else language


def quoted(language: Language) -> Node:
    """The texts as JSON writes them, quotation marks included."""
    if language == ANYTHING:
        return Call(STRING)
    return Graph(((0, single('"'), 1), *_edges(language, 1)), frozenset((len(language.moves) + 1,)))


def _edges(language: Language, first: int) -> Iterable[tuple[int, Node, int]]:
    """Through the language from point `first` on; the last point is behind the closing mark."""
    end = first + len(language.moves)
    for state, moves in enumerate(language.moves):
        if language.is_universal(state):
            yield first + state, Call(REST), end
            continue
        for ranges, target in moves:
            for part in _written(ranges):
                yield first + state, part, first + target
        if language.accepts[state]:
            yield first + state, single('"'), end


@cache
def _written(ranges: Ranges) -> tuple[Node, ...]:
    """The ways to write one character: itself, or a backslash and a letter.

    Control characters that have no letter are left out.
    """
    plain = without(ranges, MUST_ESCAPE)
    letters = "".join(
        letter
        for character, letter in SHORT_ESCAPES.items()
        if overlap(ranges, ((ord(character), ord(character)),))
    )
    parts: list[Node] = [Chars(plain)] if plain else []
    if letters:
        parts.append(Seq((single("\\"), one_of(letters))))
    return tuple(parts)
