"""Guides that show whether a reader's work grows faster than their length."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from request_inputs.guide_bounds import MAX_BYTES

from tests.support import hostile_schemas

SIZE = 16 * 1024  # enough to tell quadratic from linear
Part = str | Callable[[int], str]


def filled(head: str, part: Part, tail: str, joint: str = ",", size: int = SIZE) -> str:
    """The head, as many parts as fit into `size` bytes, and the tail."""
    parts: list[str] = []
    left = size - len((head + tail).encode())
    while left > 0:
        parts.append(part if isinstance(part, str) else part(len(parts)))
        left -= len((parts[-1] + joint).encode())
    return head + joint.join(parts[:-1]) + tail


def repeated(head: str, parts: dict[str, Part]) -> dict[str, str]:
    """For each part a guide that repeats it as often as fits."""
    return {name: filled(head, part, "", "") for name, part in parts.items()}


def nested(left: str, depth: int, inner: str, right: str) -> str:
    return left * depth + inner + right * depth


def spelled(number: int) -> str:
    """One of many ways to write the pointer /$defs/aaaaaaaaaaaa."""
    return "#/$defs/" + "".join("a" if number >> bit & 1 else "%61" for bit in range(12))


def refer(names: Iterable[Any]) -> str:
    """References to schemas of $defs."""
    return ",".join(f'{{"$ref":"#/$defs/{name}"}}' for name in names)


BIG = ",".join("1" * 3000)
REQUIRED = ",".join(f'"{number:x}"' for number in range(1000))
ENUMS = ",".join(f'"{n}":{{"enum":{[*range(n * 30, n * 30 + 30)]}}}' for n in range(100))
WIDE = '{"type":"integer","minimum":-12345678901234567890,"maximum":98765432109876543%d}'
NEST = nested('{"items":', 50, f'{{"enum":[{BIG}]}}', "}")
LIKE_OBJECTS = [
    {
        "required": list("abcdefghij"),
        "properties": {name: {"const": number * (name == "j")} for name in "abcdefghij"},
    }
    for number in range(100)
]
ANY_OF = ('{"anyOf":[', "]}")
PREFIX = ('{"prefixItems":[', "]}")
SCHEMAS: dict[str, str] = {
    "escaped quotes": filled('"', '\\"', "", ""),
    "quotes": filled("", '"\\', "", ""),
    "brackets": filled("[", "[]", "]"),
    "long integers": filled('{"enum":[', "9" * 4000, "]}"),
    "half pairs": filled('{"enum":["', "\\ud83d\\ude00", '"]}', ""),
    "values": filled('{"enum":[', "1", "]}"),
    "values of all types": filled('{"type":["string","object","array"],"enum":[', "1", "]}"),
    "types": filled('{"items":{},"type":[', '"array"', "]}"),
    "nested types": nested('{"type":["array","array"],"items":', 60, "{}", "}"),
    "integers": filled(ANY_OF[0], lambda n: WIDE % n, ANY_OF[1]),
    "numbers": filled(ANY_OF[0], lambda n: f'{{"minimum":-{n}}}', ANY_OF[1]),
    "formats": filled(ANY_OF[0], '{"format":"date-time"}', ANY_OF[1]),
    "lengths": filled(ANY_OF[0], lambda n: f'{{"maxLength":{n}}}', ANY_OF[1]),
    "patterns": filled(ANY_OF[0], lambda n: f'{{"pattern":"{n}"}}', ANY_OF[1]),
    "pattern of points": filled('{"pattern":"', ".", '"}', ""),
    "pattern of classes": filled('{"pattern":"', lambda n: f"[ -{chr(0x4E00 + n)}]", '"}', ""),
    "arrays": filled(PREFIX[0], '{"items":{}}', PREFIX[1]),
    "objects": filled('{"properties":{', lambda n: f'"{n}":{{"maxItems":{n}}}', "}}"),
    "required": filled('{"required":[', lambda n: f'"{n}"', "]}"),
    "required beside big": filled(
        f'{{"additionalProperties":{{"enum":[{BIG}]}},"required":[', lambda n: f'"{n}"', "]}"
    ),
    "nested required": nested('{"required":["a","b"],"additionalProperties":', 60, "{}", "}"),
    "other keywords": filled("{", lambda n: f'"x-{n}":1', "}"),
    "long place": filled(f'{{"properties":{{"{"a" * 9000}":{{"prefixItems":[', "{}", "]}}}"),
    "references": filled(ANY_OF[0], '{"$ref":"#"}', ANY_OF[1]),
    "references in circles": filled(
        ANY_OF[0], lambda n: f'{{"$ref":"#/anyOf/{n * 7 % 99}"}}', ANY_OF[1]
    ),
    "references to one, spelled": filled(
        f'{{"$defs":{{"aaaaaaaaaaaa":{{"enum":[{BIG}]}}}},"anyOf":[',
        lambda n: f'{{"$ref":"{spelled(n)}"}}',
        "]}",
    ),
    "references into nests": filled(
        f'{{"$defs":{{"a":{NEST}}},"anyOf":[', lambda n: refer(["a" + "/items" * (n % 50)]), "]}"
    ),
    "oneOf again": filled(
        f'{{"$defs":{{{ENUMS}}},"prefixItems":[',
        f'{{"oneOf":[{refer(range(100))}]}}',
        "]}",
        size=MAX_BYTES,
    ),
    "oneOf of many": filled(
        f'{{"$defs":{{{ENUMS}}},"prefixItems":[',
        lambda n: f'{{"oneOf":[{refer(range(n, 100))}]}}',
        "]}",
        size=MAX_BYTES,
    ),
    "oneOf of objects": json.dumps({"oneOf": LIKE_OBJECTS}),
    "oneOf of two": filled(
        f'{{"$defs":{{"a":{{"enum":[{BIG}]}},"b":{{"required":[{REQUIRED}]}}}},"prefixItems":[',
        '{"oneOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}]}',
        "]}",
        size=MAX_BYTES,
    ),
    "oneOf of a chain": filled(
        f'{{"oneOf":[{refer([0] * 100)}],"$defs":{{',
        lambda n: f'"{n}":{{"$ref":"#/$defs/{n + 1 if n < 200 else 0}"}}',
        "}}",
    ),
}  # fmt: skip
REGEXES: dict[str, str] = {
    **repeated("", {
        "characters": "a", "points": ".", "classes": "[a-z]", "negated classes": "[^\\w]",
        "alternatives": "(a|b)", "nothing": "()", "nests": nested("(", 64, "a", ")"),
        "repetitions": "(a*)*", "counts": "a{1,9999}", "alternatives of nothing": "|",
        "distinct classes": lambda n: f"[^{chr(0x4E00 + n)}]", "unclosed": "(a",
    }),
    "nested counts": nested("(", 60, "a", "{1,9999})"),
    "a class": filled("[^", lambda n: chr(0x100 + 2 * n), "]", ""),
    "a class of classes": filled("[^", "\\W", "]", ""),
    "alternatives, nested": nested("(", 64, filled("", "a|", "", ""), ")"),
}  # fmt: skip
GRAMMARS: dict[str, str] = {
    **repeated("root ::= ", {
        "strings": '"a"', "empty strings": '""', "classes": "[a]", "names": "root ",
        "alternatives": "|", "nothing": "()?", "nests": nested("(", 64, '"a"', ")"),
        "counts": '""{ 1 , 2 }', "unclosed": "(", "open strings": '"\\"\n', "open classes": "[",
        "distinct classes": lambda n: f"[^{chr(0x4E00 + n)}]", "comments": "#\n",
    }),
    "rules": filled("root ::= a0\n", lambda n: f"a{n} ::= a{n} a{n // 2}\n", "", ""),
    "count of spaces": filled('root ::= ""{1', " ", "x}", ""),
    "count of digits": filled('root ::= ""{', "1", "}", ""),
}  # fmt: skip
CHOICES: dict[str, str] = {
    "strings": filled("[", lambda n: f'"{n:x}"', "]"),
    "empty strings": filled("[", '""', "]"),
    "escapes": filled('["', "\\ud83d\\ude00", '"]', ""),
    "lists": filled("[", "[]", "]"),
    "one string": filled('["', "a", '"]', ""),
}
GUIDES = [
    *(("choice", name, text) for name, text in CHOICES.items()),
    *(("json_schema", name, text) for name, text in SCHEMAS.items()),
    *(("json_schema", name, text) for name, text in hostile_schemas.TEXTS.items()),
    *(("regex", name, text) for name, text in REGEXES.items()),
    *(("ebnf_grammar", name, text) for name, text in GRAMMARS.items()),
]
