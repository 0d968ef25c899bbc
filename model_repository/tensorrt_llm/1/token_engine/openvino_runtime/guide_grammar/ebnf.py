"""A grammar in EBNF, read into rules: the dialect that xgrammar and llama.cpp (GBNF) share.

    # a comment
    root ::= "yes" | "no" | [0-9]{1,3} item*
    item ::= "," [^,\\n]+ | "(" item ")"

A rule may go on over several lines. Not read: look-ahead `(=...)`, macros like `TagDispatch(...)`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    ROOT,
    Alt,
    Call,
    Grammar,
    GuideError,
    Node,
    Repeat,
    literal,
    sequence,
)
from token_engine.openvino_runtime.guide_grammar.regex import (
    MAX_COUNT,
    is_digits,
    parse_class_of_ebnf,
)

MAX_DEPTH = 64  # parentheses within parentheses
TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n]|\#[^\r\n]*)+)
      | (?P<name>[A-Za-z_][A-Za-z0-9_.\-]*)
      | (?P<define>::=)
      | (?P<string>"(?:[^"\\\r\n]|\\[^\r\n])*")
      | (?P<class>\[(?:[^\]\\\r\n]|\\[^\r\n])*\])
      | (?P<count>\{[^{}]*\})
      | (?P<mark>\(=|[()|*+?])
      | (?P<wrong>.)""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "v": "\v", "f": "\f", "b": "\b", "a": "\a"}
LONGEST_SHOWN = 40  # characters of a name that a refusal repeats


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def parse_ebnf(text: str) -> Grammar:
    """Read it; raises `GuideError`."""
    parser = _Parser(_tokens(text))
    rules = parser.rules()
    if ROOT not in rules:
        raise GuideError(f"has no rule {ROOT!r}; it must have one")
    for name, line in parser.called.items():
        if name not in rules:
            raise GuideError(
                f"calls the rule {name[:LONGEST_SHOWN]!r} in line {line}; it must define that rule"
            )
    return Grammar(rules)


def _tokens(text: str) -> list[_Token]:
    tokens, line = [], 1
    for match in TOKEN.finditer(text):
        kind, found = match.lastgroup or "", match.group()
        if kind == "wrong":
            raise GuideError(f"has {found!r} in line {line}; {_MUST}")
        if kind != "space":
            tokens.append(_Token(kind, found, line))
        if kind in ("space", "count"):  # the only ones of several lines
            line += found.count("\n")
    tokens.append(_Token("end", "the end", line))
    return tokens


_MUST = "it must be rules 'name ::= ...' of strings, classes, names, ( ) | * + ? and {m,n}"


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._classes: dict[str, Node] = {}
        self.called: dict[str, int] = {}  # rule -> line of its first call

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        while self._token().kind != "end":
            name = self._token()
            if name.kind != "name" or not self._defines():
                raise self._unexpected()
            if name.text in rules:
                raise GuideError(
                    f"defines the rule {name.text[:LONGEST_SHOWN]!r} again in line {name.line}; "
                    "it must define it once"
                )
            self._at += 2
            rules[name.text] = self._alternatives(0)
        return rules

    def _alternatives(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise GuideError(
                f"nests parentheses more than {MAX_DEPTH} deep in line {self._token().line}; "
                "they must nest less deep"
            )
        items = [self._sequence(depth)]
        while self._token().text == "|":
            self._at += 1
            items.append(self._sequence(depth))
        return items[0] if len(items) == 1 else Alt(tuple(items))

    def _sequence(self, depth: int) -> Node:
        items: list[Node] = []
        while (item := self._element(depth)) is not None:
            items.append(self._repeated(item) if self._repeats() else item)
        return sequence(items)

    def _element(self, depth: int) -> Node | None:
        token = self._token()
        if token.kind == "name" and not self._defines():
            self.called.setdefault(token.text, token.line)
            node: Node = Call(token.text)
        elif token.kind == "string":
            node = literal(_unescaped(token))
        elif token.kind == "class":
            if token.text not in self._classes:
                self._classes[token.text] = _character_class(token)
            node = self._classes[token.text]
        elif token.text == "(":
            self._at += 1
            node = self._alternatives(depth + 1)
            if self._token().text != ")":
                raise self._unexpected()
        else:
            return None
        self._at += 1
        return node

    def _repeated(self, node: Node) -> Node:
        token = self._token()
        self._at += 1
        if token.kind == "count":
            return Repeat(node, *_counts(token))
        return Repeat(node, int(token.text == "+"), 1 if token.text == "?" else None)

    def _repeats(self) -> bool:
        token = self._tokens[self._at]
        return token.text in ("*", "+", "?") or token.kind == "count"

    def _defines(self) -> bool:
        """Whether the name here begins the next rule."""
        return self._tokens[self._at + 1].kind == "define"

    def _token(self) -> _Token:
        return self._tokens[self._at]

    def _unexpected(self) -> GuideError:
        token = self._token()
        return GuideError(f"has {token.text[:40]!r} in line {token.line}; {_MUST}")


def _counts(token: _Token) -> tuple[int, int | None]:
    least, comma, most = (part.strip() for part in token.text[1:-1].partition(","))
    is_count = is_digits(least) and (most == "" or is_digits(most))
    low = int(least) if is_count else 0
    high = (int(most) if is_count and most else None) if comma else low
    if not is_count or max(low, high or 0) > MAX_COUNT or (high is not None and high < low):
        raise GuideError(
            f"has the count {' '.join(token.text[:40].split())} in line {token.line}; "
            f"it must be {{m}}, {{m,}} or {{m,n}} with 0 <= m <= n <= {MAX_COUNT}"
        )
    return low, high


def _unescaped(token: _Token) -> str:
    def replaced(match: re.Match[str]) -> str:
        digits = match[1] or match[2] or match[3]
        if digits:
            code_point = int(digits, 16)
            if not any(first <= code_point <= last for first, last in ALPHABET):
                raise GuideError(
                    f"has {match.group()} in line {token.line}; "
                    "it must be a character from U+0001 to U+10FFFF, and no surrogate"
                )
            return chr(code_point)
        if match[4] in CONTROLS or not match[4].isalnum():
            return CONTROLS.get(match[4], match[4])
        raise GuideError(
            f"has the escape {match.group()} in line {token.line}; "
            "it must be \\n \\r \\t \\xHH \\uHHHH \\UHHHHHHHH or punctuation"
        )

    text = token.text[1:-1]
    return ESCAPE.sub(replaced, text) if "\\" in text else text


def _character_class(token: _Token) -> Node:
    try:
        return parse_class_of_ebnf(token.text)
    except GuideError as error:
        raise GuideError(f"in line {token.line} {error}") from None
