"""A regular expression, read into a grammar node.

The dialect is what Python's `re` and JavaScript share and a finite automaton can do: literals, `.`,
classes, `\\d \\w \\s` of ASCII and their complements, `\\p{L}` and the other general categories,
groups with and without names, `|`, the repetitions `* + ? {m} {m,} {m,n}` (a lazy one matches the
same texts), `^ \\A` and `$ \\Z \\z` for the beginning and the end of the text wherever they stand,
and the flags `(?i)`, `(?s)` and `(?a)`. `.` leaves out the line ends of JavaScript. Look-around,
back references, word boundaries, possessive repetitions and atomic groups are refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ALPHABET,
    EMPTY,
    Alt,
    Chars,
    GuideError,
    Node,
    Ranges,
    Repeat,
    sequence,
    shown,
    single,
    union,
    without,
)
from token_engine.openvino_runtime.guide_grammar.regular.anchors import (
    BEGIN,
    END,
    Anchored,
    Ends,
    Item,
    anchored,
    either,
    one_after_the_other,
    optional,
)
from token_engine.openvino_runtime.guide_grammar.regular.characters import (
    CLASSES,
    CLASSES_OF_PATTERNS,
    LINE_ENDS,
    category,
    count_cased,
    in_both_cases,
)

MAX_DEPTH = 64  # groups within groups
MAX_COUNT = 10_000  # in {m,n}
MAX_ANCHORS = 50
MAX_CASED = 50_000  # letters of classes to match in both cases
ANY_BUT_LINE_ENDS = Chars(without(ALPHABET, LINE_ENDS))
ANY = Chars(ALPHABET)
CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "a": 0x07}
REPETITIONS = ("*", "+", "?", "{")
HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
ANCHORS = {"^": BEGIN, "$": END}
ESCAPED_ANCHORS = {"A": BEGIN, "Z": END, "z": END}
FLAGS = "isa"
# A plain group, one with a name, one with flags, or flags alone.
GROUP_BEGINNING = re.compile(
    r"\?(?::|P?<[^\W\d]\w*>|(?P<on>[a-zA-Z]*)(?:-(?P<off>[a-zA-Z]+))?(?P<end>[:)]))"
)
LOW_SURROGATE = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})")
CATEGORY = re.compile(r"\{(\^?)(\w{1,40})\}|([A-Z])")
REFUSED_GROUPS = {
    "?=": "look-ahead", "?!": "look-ahead", "?<=": "look-behind", "?<!": "look-behind",
    "?P=": "a back reference", "?>": "an atomic group", "?(": "a conditional group",
    "?R": "recursion", "?#": "a comment", "?&": "recursion", "?|": "a branch reset",
}  # fmt: skip
REFUSED_ESCAPES = {
    **dict.fromkeys("123456789kg", "a back reference"), "b": "a word boundary",
    "B": "a word boundary", "G": "an anchor of a search", "K": "a reset of the match",
    "Q": "a quotation", "X": "a grapheme", "R": "a line break of any kind",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Regex:
    """What it matches, by whether that must begin and end where the text does."""

    parts: dict[Ends, Node]

    @property
    def node(self) -> Node:
        """The texts of which it matches the whole."""
        return _alternatives(list(self.parts.values()))

    def search(self, anything: Node) -> Node:
        """The texts in which it matches some part; `anything` matches every text."""
        found: list[Node] = []
        for (starts, stops), node in self.parts.items():
            before = [] if starts else [anything]
            found.append(sequence([*before, node, *([] if stops else [anything])]))
        return _alternatives(found)


def _alternatives(nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else Alt(tuple(nodes))


def parse_regex(pattern: str) -> Regex:
    """Read it; raises `GuideError`."""
    return _Parser(pattern).whole()


def parse_pattern(pattern: str) -> Regex:
    """The same of a JSON schema, where `\\s` and `\\S` are JavaScript's."""
    return _Parser(pattern, classes=CLASSES_OF_PATTERNS).whole()


def parse_class_of_ebnf(text: str) -> Chars:
    """Read `[...]` as an EBNF grammar writes it."""
    return _Parser(text, in_ebnf=True).lone_class()


class _Parser:
    def __init__(
        self, pattern: str, in_ebnf: bool = False, classes: dict[str, Ranges] = CLASSES
    ) -> None:
        self._text = pattern
        self._classes = classes
        self._in_ebnf = in_ebnf
        self._at = 0
        self._depth = 0
        self._anchors = 0
        self._cased = 0
        self._ignores_case = False
        self._any = ANY_BUT_LINE_ENDS

    def whole(self) -> Regex:
        item = self._alternatives()
        if self._at < len(self._text):
            raise self._error("has ')' where it means nothing", "'\\)'")
        return Regex({ends: node for ends, (node, _) in anchored(item).joined().items()})

    def lone_class(self) -> Chars:
        self._at = 1
        return Chars(self._character_class())

    def _alternatives(self) -> Item:
        items = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            items.append(self._sequence())
        if len(items) == 1:
            return items[0]
        if any(isinstance(item, Anchored) for item in items):
            return either(items)
        return Alt(tuple(item for item in items if not isinstance(item, Anchored)))

    def _sequence(self) -> Item:
        items: list[Item] = []  # no two nodes in a row where there are anchors
        nodes: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            item = self._atom()
            if self._repeats():
                item = self._repeated(item)
            if isinstance(item, Anchored):
                items += [sequence(nodes), item]
                nodes = []
            else:
                nodes.append(item)
        return one_after_the_other([*items, sequence(nodes)]) if items else sequence(nodes)

    def _repeats(self) -> bool:
        """Whether a repetition follows. As in Python and JavaScript, a '{' may be none."""
        character = self._peek()
        if character != "{":
            return character in ("*", "+", "?")
        end = self._text.find("}", self._at, self._at + 32)
        least, comma, most = self._text[self._at + 1 : max(end, self._at)].partition(",")
        if least == "" and comma and is_digits(most):
            raise self._error(f"has the count {{,{most}}}", f"{{0,{most}}}")
        return end > 0 and is_digits(least) and (most == "" or is_digits(most))

    def _repeated(self, item: Item) -> Item:
        character = self._peek()
        if character == "{":
            least, most = self._counts()
        else:
            self._at += 1
            least, most = int(character == "+"), 1 if character == "?" else None
        if self._peek() == "?":  # lazy: the same texts
            self._at += 1
        elif self._peek() == "+":
            raise self._error("has a possessive repetition", "a plain or a lazy one")
        if self._repeats():
            raise self._error("repeats a repetition", "a group around the inner one")
        if not isinstance(item, Anchored):
            return Repeat(item, least, most)
        if most != 1:
            raise self._error("repeats '^' or '$'", "without a repetition around them")
        return item if least else optional(item)

    def _counts(self) -> tuple[int, int | None]:
        end = self._text.index("}", self._at)
        least, comma, most = self._text[self._at + 1 : end].partition(",")
        low = int(least)
        high = (int(most) if most else None) if comma else low
        if max(low, high or 0) > MAX_COUNT or (high is not None and high < low):
            raise self._error(
                f"has the count {self._text[self._at : end + 1]}", f"0 <= m <= n <= {MAX_COUNT}"
            )
        self._at = end + 1
        return low, high

    def _atom(self) -> Item:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return Chars(self._character_class())
        if character == ".":
            return self._any
        if character == "\\":
            return self._escaped_atom()
        if character in ANCHORS:
            return self._anchor(ANCHORS[character])
        if character in REPETITIONS:
            self._at -= 1
            if self._repeats():
                raise self._error(f"has {character!r} where it means nothing", f"'\\{character}'")
            self._at += 1  # a '{' that begins no count
        if self._ignores_case:
            return Chars(self._in_both_cases(_single(ord(character))))
        return single(character)

    def _anchor(self, item: Anchored) -> Anchored:
        self._anchors += 1
        if self._anchors > MAX_ANCHORS:
            raise self._error(f"has more than {MAX_ANCHORS} of '^' and '$'", "simpler")
        return item

    def _escaped_atom(self) -> Item:
        character = self._peek()
        if character in ESCAPED_ANCHORS:
            self._at += 1
            return self._anchor(ESCAPED_ANCHORS[character])
        if character in REFUSED_ESCAPES:
            self._at -= 1
            what = f"{REFUSED_ESCAPES[character]} '\\{character}'"
            raise self._error(f"has {what}", "a pattern without it")
        return Chars(self._in_both_cases(self._escape()))

    def _group(self) -> Item:
        flags = self._ignores_case, self._any
        if self._peek() == "?" and self._extension():
            return EMPTY
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error("nests groups too deeply", f"at most {MAX_DEPTH} levels")
        item = self._alternatives()
        if self._next() != ")":
            raise self._error("has a '(' without ')'", "'\\('")
        self._depth -= 1
        self._ignores_case, self._any = flags  # they end with the group
        return item

    def _extension(self) -> bool:
        """Read what follows '(' up to the group's pattern. True if it is flags alone: `(?i)`."""
        for beginning, what in REFUSED_GROUPS.items():
            if self._text.startswith(beginning, self._at):
                raise self._error(f"has {what} '({beginning}'", "a pattern without it")
        found = GROUP_BEGINNING.match(self._text, self._at)
        if found is None:
            said = self._text[self._at : self._at + 3]
            raise self._error(f"has a group that begins with '({said}'", "(...) or (?:...)")
        self._at = found.end()
        self._set_flags(found["on"] or "", True)
        self._set_flags(found["off"] or "", False)
        return found["end"] == ")"

    def _set_flags(self, letters: str, on: bool) -> None:
        for letter in letters:
            if letter not in FLAGS:
                raise self._error(f"has the flag '{letter}'", "(?i), (?s) or (?a)")
            if letter == "i":
                self._ignores_case = on
            elif letter == "s":
                self._any = ANY if on else ANY_BUT_LINE_ENDS

    def _character_class(self) -> Ranges:
        negated = self._peek() == "^"
        self._at += int(negated)
        ranges: set[tuple[int, int]] = set()
        while (character := self._next()) != "]" or not ranges:
            if character in ("", "]"):
                raise self._error("has a class that does not end or is empty", "'\\[' or '\\]'")
            if character == "[" and self._peek() == ":" and not self._in_ebnf:
                raise self._error("has a POSIX class '[:'", "a range, \\d, \\w, \\s or \\p{L}")
            ranges.update(self._class_part(character))
        chosen = self._in_both_cases(union(ranges))
        return without(ALPHABET, chosen) if negated else chosen

    def _class_part(self, character: str) -> Ranges:
        first = self._escape(in_class=True) if character == "\\" else _single(ord(character))
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return first
        self._at += 1
        character = self._next()
        last = self._escape(in_class=True) if character == "\\" else _single(ord(character))
        low, high = first[0][0], last[-1][1]
        if not (_is_single(first) and _is_single(last) and low <= high):
            raise self._error("has a range in a class that is none", "[a-z]")
        if low < 0xD800 and high > 0xDFFF:
            return ((low, 0xD7FF), (0xE000, high))
        return ((low, high),)

    def _in_both_cases(self, ranges: Ranges) -> Ranges:
        if not self._ignores_case:
            return ranges
        self._cased += count_cased(ranges)
        if self._cased > MAX_CASED:
            raise self._error(f"matches more than {MAX_CASED} letters in both cases", "simpler")
        return in_both_cases(ranges)

    def _escape(self, in_class: bool = False) -> Ranges:
        character = self._next()
        if character in self._classes:
            return self._classes[character]
        if character in CONTROLS:
            return _single(CONTROLS[character])
        if character in HEX_LENGTHS:
            return self._checked(self._hexadecimal(character))
        if character == "0" and not self._in_ebnf:
            return self._checked(0)
        if character in ("p", "P") and not self._in_ebnf:
            return self._category(is_complement=character == "P")
        if character == "b" and in_class:
            return _single(0x08)
        if character and not (character.isascii() and character.isalnum()):
            return _single(ord(character))
        raise self._error(
            f"has the escape '\\{character}'", "\\d \\w \\s, \\t \\n \\r, \\uHHHH, punctuation"
        )

    def _hexadecimal(self, letter: str) -> int:
        """The code point behind `\\x`, `\\u` or `\\U`; two surrogates are one character."""
        text = self._text
        if text.startswith("{", self._at) and not self._in_ebnf:
            end = text.find("}", self._at, self._at + 12)
            digits, self._at = text[self._at + 1 : max(end, self._at)], max(end + 1, self._at)
            is_right = 1 <= len(digits) <= 8
        else:
            length = HEX_LENGTHS[letter]
            digits = text[self._at : self._at + length]
            self._at += len(digits)
            is_right = len(digits) == length
        if not is_right or not set(digits) <= HEX_DIGITS:
            raise self._error(f"has the unfinished escape '\\{letter}'", "\\xHH or \\uHHHH")
        number = int(digits, 16)
        pair = LOW_SURROGATE.match(text, self._at) if 0xD800 <= number <= 0xDBFF else None
        if pair is not None:
            self._at = pair.end()
            return 0x10000 + (number - 0xD800) * 0x400 + int(pair[1], 16) - 0xDC00
        return number

    def _category(self, is_complement: bool) -> Ranges:
        found = CATEGORY.match(self._text, self._at)
        ranges = category(found[2] or found[3]) if found else None
        if found is None or ranges is None:
            name = found[0] if found else self._text[self._at : self._at + 12]
            raise self._error(f"has the property {name!r}", "a general category such as \\p{Lu}")
        self._at = found.end()
        return without(ALPHABET, ranges) if is_complement != bool(found[1]) else ranges

    def _checked(self, code_point: int) -> Ranges:
        if not any(first <= code_point <= last for first, last in ALPHABET):
            raise self._error(f"has {shown(code_point)}", "U+0001 on, without the surrogates")
        return _single(code_point)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _error(self, wrong: str, needed: str = "what Python and JavaScript share") -> GuideError:
        where = min(self._at, len(self._text))
        return GuideError(f"{wrong} at character {where}; it must be {needed}")


def _single(code_point: int) -> Ranges:
    return ((code_point, code_point),)


def _is_single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def is_digits(text: str) -> bool:
    """Whether it is a number that takes no time to read."""
    return 0 < len(text) <= 9 and text.isascii() and text.isdigit()
