"""Keywords for strings: lengths, patterns and formats."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.guide_matching import compiled, matches, write
from tests.support.keyword_cases import ONLY_2020, Case, check, of_each

OTHERS: list[Any] = [None, True, 1, 2.5, [], {}]

CASES = [
    Case({"minLength": 2}, ["ab", "abc", "日本", "😀😀", *OTHERS], ["", "a", "日", "😀"]),
    Case({"maxLength": 2}, ["", "a", "ab", "日本", "😀😀", '"\\', "\n\t", *OTHERS],
         ["abc", "日本語", "😀😀😀"]),
    Case({"minLength": 2, "maxLength": 2}, ["ab", "é\n"], ["a", "abc", ""]),
    Case({"minLength": 2.0, "maxLength": 3.0}, ["ab", "abc"], ["a", "abcd"], drafts=ONLY_2020),
    Case({"maxLength": 0, "type": "string"}, [""], ["a", " "]),
    Case({"minLength": 0, "type": "string"}, ["", "a"], [1]),
    Case({"minLength": 1, "maxLength": 255, "type": "string"}, ["a", "b" * 255], ["", "b" * 256]),
    Case({"maxLength": 32767, "type": "string"}, ["", "a" * 40]),
    Case({"minLength": 20, "type": "string"}, ["a" * 20, "a" * 99], ["a" * 19]),
    # patterns are searched for, not anchored, and JavaScript's
    Case({"pattern": "^a*$"}, ["", "aaa", *OTHERS], ["abc", "b", "aa\n"]),
    Case({"pattern": "a+", "type": "string"}, ["a", "xxaayy", "\na\n"], ["", "xyz"]),
    Case({"pattern": "^[A-Z]{2}-[0-9]{3,}$", "type": "string"}, ["AB-123", "XY-12345"],
         ["AB-12", "ab-123", " AB-123", "AB-123 "]),
    Case({"pattern": "^(red|green|blue)$", "type": "string"}, ["red", "blue"], ["reds", "", "RED"]),
    Case({"pattern": r"^\d{3}$", "type": "string"}, ["012"], ["12", "1234", "١٢٣"]),
    Case({"pattern": r"^\w+$", "type": "string"}, ["a_B9"], ["é", "a b", "a-b", ""]),
    Case({"pattern": r"^\W$", "type": "string"}, ["é", "-", " "], ["a", "_", "7"]),
    Case({"pattern": r"^\S+$", "type": "string"}, ["ab", "é-"],
         ["a b", "\t", "", "\u00a0", "\u2003"]),
    Case({"pattern": r"^a\sb$", "type": "string"}, ["a b", "a\tb", "a\nb"], ["ab", "a_b"]),
    Case({"pattern": r"^\$\.\/\-\\$", "type": "string"}, ["$./-\\"], ["$a/-\\"]),
    Case({"pattern": r"^[^\\\"]+$", "type": "string"}, ["abc"], ["a\\", 'a"', ""]),
    Case({"pattern": r"^\u00e9\x41$", "type": "string"}, ["éA"], ["eA", "é"]),
    Case({"pattern": "^é+$", "type": "string"}, ["éé"], ["e"]),
    Case({"pattern": "^.$", "type": "string"}, ["a", "é", "日"], ["", "ab", "\n", "\r", "\u2028"]),
    Case({"pattern": "^a|b$", "type": "string"}, ["a", "axx", "xxb"], ["xa", "bx", "c"]),
    Case({"pattern": "^/[^\x00]+$", "type": "string"}, ["/a"], ["/", "/a\u0000b"],
         ["/\u0001"]),  # where a pattern counts, control characters without a letter are left out
    Case({"pattern": "^[^\x00]*$", "type": "string"}, ["", "a"], ["\u0000"]),
    Case({"type": "string"}, ["\u0001\u0010\u0100\ufffd"], missed=["\u0000"]),
    Case({"pattern": "^$", "type": "string"}, [""], ["a", " "]),
    Case({"pattern": "", "type": "string"}, ["", "anything"], [1]),
    Case({"pattern": "^x", "type": "string"}, ["x", "xyz", "x\n"], ["", "ax"]),
    Case({"pattern": "x$", "type": "string"}, ["x", "abx"], ["", "xa", "x\n"]),
    Case({"pattern": "^(?:ab){2}c?$", "type": "string"}, ["abab", "ababc"], ["ab", "ababcc"]),
    Case({"pattern": "^[a-z]+?[0-9]*?$", "type": "string"}, ["a", "ab12"], ["", "1"]),
    # together
    Case({"pattern": "^[a-z]*$", "minLength": 2, "maxLength": 4, "type": "string"},
         ["ab", "abcd"], ["a", "abcde", "aB", ""]),
    Case({"pattern": "a", "maxLength": 2, "type": "string"}, ["a", "xa", "ax"], ["", "xax", "bb"]),
    Case({"pattern": "^[0-9]+$", "minLength": 1, "maxLength": 100, "type": "string"},
         ["0", "9" * 100], ["", "9" * 101, "a"]),
    Case({"format": "date", "maxLength": 20, "type": "string"}, ["2024-02-29"], ["2024-2-1", ""]),
    Case({"format": "date", "pattern": "^2024", "type": "string"}, ["2024-02-29"],
         ["2023-01-01", "2024"]),
    Case({"format": "email", "maxLength": 6, "type": "string"}, ["a@b.de"], ["ab@b.de", "a"]),
    # formats
    Case({"format": "date", "type": "string"}, ["2024-02-29", "1963-06-19", "2000-12-31"],
         ["2023-02-29", "2024-13-01", "2024-04-31", "06/19/1963", "2024-1-1", "20240101", ""]),
    Case({"format": "date"}, [*OTHERS, "2024-02-29"], ["later"]),
    Case({"format": "time", "type": "string"}, ["08:30:06Z", "23:59:59.123Z", "12:00:00+01:30"],
         ["24:00:00Z", "08:60:06Z", "8:30:06Z", "083006Z", "12:00:00"]),
    Case({"format": "date-time", "type": "string"},
         ["1963-06-19T08:30:06.283185Z", "2024-02-29T23:59:59-08:00"],
         ["2023-02-29T00:00:00Z", "1963-06-19", "1963-06-19T08:30:06", "1963-06-19 08:30:06Z"]),
    Case({"format": "email", "type": "string"}, ["joe.bloggs@example.com", "a+b@c.org"],
         ["2962", "joe.bloggs"]),
    Case({"format": "ipv4", "type": "string"}, ["192.168.0.1", "0.0.0.0", "255.255.255.255"],
         ["256.0.0.1", "127.0.0", "127.0.0.0.1", "a.b.c.d", "0x7f000001"]),
    Case({"format": "ipv6", "type": "string"}, ["::1", "::", "fe80::a", "1:2:3:4:5:6:7:8"],
         ["12345::", "1:2:3", ":::1", "1:2:3:4:5:6:7:8:9", "fe80::a%eth1"]),
    Case({"format": "uuid", "type": "string"}, ["2eb8aa08-aa98-11ea-b4aa-73b441d16380"],
         ["2eb8aa08-aa98-11ea-b4aa-73b441d1638", "2eb8aa08aa9811eab4aa73b441d16380", ""]),
    Case({"format": "uri", "type": "string"},
         ["http://example.com/", "https://a.de:80/b?c=d#e", "mailto:a@b.de", "urn:isbn:1"],
         ["/a/b", "a b", "//a.de", "http:// a", ""]),
    Case({"format": "uri-reference", "type": "string"}, ["/a/b", "#x", "http://a.de/b", "a"],
         ["\\\\a", "a b"]),
    Case({"format": "hostname", "type": "string"}, ["www.example.com", "localhost", "a-b.de"],
         ["-a.de", "a_b.de", "a.de-", "a" * 64 + ".de"]),
    Case({"format": "duration", "type": "string"}, ["P1D", "PT36H", "P1Y2M3DT4H5M6S"],
         ["P", "1D", "PT", "P1"]),
    Case({"format": "json-pointer", "type": "string"}, ["", "/a/b~1c/0"], ["a/b", "/a~2"]),
    Case({"format": "no-such-format", "type": "string"}, ["", "anything"], [1]),
    Case({"format": "int64", "type": "integer"}, [1, -5], ["a"]),
    Case({"format": "password", "type": "string"}, ["", "secret"], [1]),
]  # fmt: skip


@of_each(CASES)
def test_strings(case: Case) -> None:
    check(case)


def test_how_strings_are_written() -> None:
    """A character counts once however it is escaped."""
    grammar = compiled("json_schema", json.dumps({"type": "string", "maxLength": 1}))
    for text in ('"a"', '"\\n"', '"\\""', '"\\\\"', '"é"', '"😀"', '""'):
        assert matches(grammar, text), text
    for text in ('"ab"', '"\\n\\n"', '"', '"\\"', '"\\x41"', '"\n"', '"\\ud800"', "'a'", '"\\u00"'):
        assert not matches(grammar, text), text


# The judge refuses a right relative-json-pointer, "100", and IPv6 addresses in a right IRI.
JUDGED_WRONGLY = {"iri", "iri-reference", "relative-json-pointer"}
FORMATS = sorted(Draft202012Validator.FORMAT_CHECKER.checkers.keys() - JUDGED_WRONGLY)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_writes(name: str) -> None:
    """The package jsonschema finds all of it right."""
    grammar = compiled("json_schema", json.dumps({"type": "string", "format": name}))
    for seed in range(150):
        written = json.loads(write(grammar, Random(seed), eager=5 + seed % 50))
        assert Draft202012Validator.FORMAT_CHECKER.conforms(written, name), written
