"""How the fakes judge a guide: as xgrammar does in the libraries, by a few of its rules."""

from __future__ import annotations

import json
import re
from types import ModuleType
from typing import Any

from tests.fakes.libraries.signatures import module

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
# Read without complaint, and not compiled.
UNCOMPILABLE = '{"$ref": "#/nowhere"}'


def check_grammar(kind: str, text: str) -> None:
    """Raise `RuntimeError`, as xgrammar does; `kind` is json_schema, regex or ebnf_grammar."""
    if kind == "regex":
        try:
            re.compile(text)
        except re.error as error:
            raise RuntimeError(f"Regex parsing error: {error}") from None
    elif kind == "ebnf_grammar":
        if "root ::=" not in text:
            raise RuntimeError("EBNF parser error: The root rule with name root is not found")
    else:
        schema: Any = json.loads(text)
        if not isinstance(schema, dict | bool):
            raise RuntimeError(f"Schema should be an object or bool, but got {text}")
        if isinstance(schema, dict) and schema.get("type", "null") not in TYPES:
            raise RuntimeError(f"Unsupported type {schema['type']!r}")


def grammar_packages() -> dict[str, ModuleType]:
    """As much of xgrammar and llguidance as reads a guide, by the name they are imported under."""

    class Grammar:
        @staticmethod
        def from_json_schema(schema: str) -> None:
            check_grammar("json_schema", schema)

        @staticmethod
        def from_regex(regex_string: str) -> None:
            check_grammar("regex", regex_string)

        @staticmethod
        def from_ebnf(ebnf_string: str) -> None:
            check_grammar("ebnf_grammar", ebnf_string)

    class LLMatcher:
        @staticmethod
        def grammar_from_json_schema(schema: str) -> str:
            return json.dumps(["json_schema", schema])

        @staticmethod
        def grammar_from_regex(regex: str) -> str:
            return json.dumps(["regex", regex])

        @staticmethod
        def validate_grammar(grammar: str) -> str:
            """The error, or "" for none."""
            try:
                check_grammar(*json.loads(grammar))
            except RuntimeError as error:
                return str(error)
            return ""

    return {
        "xgrammar": module("xgrammar", Grammar=Grammar),
        "llguidance": module("llguidance", LLMatcher=LLMatcher),
    }
