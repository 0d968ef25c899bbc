"""Schemas that ask for endless work, or are none: each is served or refused by one sentence.

`test_cost.py` holds what they cost in the server's own process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.openvino_guides import FOLDER, write_guide_files
from engines.token_table import read_token_table
from token_engine.interface import Guide
from token_engine.openvino_runtime.prover_process import (
    Disproof,
    Proof,
    ProverLimits,
    ProverProcess,
)

from tests.fuzzing.guides import is_sentence
from tests.support.guide_matching import check_guide, compiled, matches
from tests.support.hostile_schemas import SLOW, TEXTS
from tests.support.paths import DEMO_CHECKPOINT

ALL = os.environ.get("ALL_HOSTILE_SCHEMAS")
LIMITS = ProverLimits(cpu_seconds=1)  # by default 10: to be refused takes as long
PLAIN = '{"type": "object", "properties": {"a": {"type": "integer"}}}'


@pytest.fixture(scope="module")
def prover(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProverProcess]:
    folder = tmp_path_factory.mktemp("guides")
    size = json.loads((DEMO_CHECKPOINT / "config.json").read_text("utf-8"))["vocab_size"]
    write_guide_files(read_token_table(DEMO_CHECKPOINT / "tokenizer.json", size), 0, folder)
    prover = ProverProcess(Path(folder) / FOLDER, LIMITS)
    yield prover
    prover.stop()


def proved(prover: ProverProcess, text: str) -> Proof | Disproof:
    prover.begin(Guide("json_schema", text))
    while (result := prover.result(1.0)) is None:
        pass
    return result


def refusal_of(read: Callable[[str, str], object], text: str) -> str:
    """The sentence of a refusal, else nothing."""
    try:
        read("json_schema", text)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in SLOW or ALL])
def test_served_or_refused(name: str, prover: ProverProcess) -> None:
    """By the check before the engine or by the prover, whose limits hold for the rest."""
    refusal = refusal_of(check_guide, TEXTS[name])
    if not refusal:
        result = proved(prover, TEXTS[name])
        refusal = result.reason if isinstance(result, Disproof) else ""
    assert not refusal or is_sentence(refusal)


def test_the_next_guide_is_served(prover: ProverProcess) -> None:
    assert isinstance(proved(prover, PLAIN), Proof)


FORMS: dict[str, list[Any]] = {
    "type": [5, {}, [], ["strin"], "strin", None, [["string"]]],
    "enum": [5, {}, "a", None],
    "properties": [5, [], "a", {"a": 5}, {"a": None}, {"a": []}],
    "required": [5, {}, "a", [5], [None]],
    "additionalProperties": [5, "a", None, []],
    "patternProperties": [5, [], {"(": {}}, {"a": 5}],
    "propertyNames": [5, [], "a"],
    "items": [5, "a", None],
    "prefixItems": [5, {}, "a", [5]],
    "contains": [5, [], "a"],
    "minLength": [-1, 1.5, "1", True, None, [], {}],
    "maxLength": [-1, 1.5, "1", True, None],
    "minItems": [-1, 0.5, "1", False, {}],
    "maxItems": [-1, 0.5, "1", False, {}],
    "minProperties": [-1, 0.5, "1", False, {}],
    "maxProperties": [-1, 0.5, "1", False, {}],
    "uniqueItems": [5, "yes", None, []],
    "minimum": ["1", None, [], True],
    "exclusiveMaximum": ["1", None, []],
    "multipleOf": [0, -1, "1", None, True],
    "pattern": [5, None, "(", "a{2,1}", "[z-a]", r"(a)\1", "(?<=a)b"],
    "format": [5, None, []],
    "allOf": [5, {}, [], [5], [None]],
    "anyOf": [5, {}, [], [5], "a"],
    "oneOf": [5, {}, [], [5]],
    "not": [5, [], None],
    "if": [5, [], "a"],
    "dependencies": [5, [], {"a": 5}],
    "dependentRequired": [5, [], {"a": 5}, {"a": [5]}],
    "dependentSchemas": [5, [], {"a": 5}],
    "$ref": [5, None, [], "#/nowhere", "#nowhere", "http://example.com/a", "a.json", "%", "#/%zz"],
    "$defs": [5, [], {"a": 5}],
    "$id": [5, [], None],
    "$schema": [5, [], None, "http://example.com/none"],
}


@pytest.mark.parametrize("keyword", FORMS)
def test_a_keyword_of_another_form(keyword: str) -> None:
    """It is refused by one sentence, or left aside where it can do no harm."""
    for value in FORMS[keyword]:
        for schema in ({keyword: value}, {"type": "array", "items": {keyword: value}}):
            refusal = refusal_of(compiled, json.dumps(schema))
            assert not refusal or is_sentence(refusal), schema


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "}", "[]", "1", '"a"', "null", "nul", "{'a': 1}", '{"a": 1,}',
        '{"minimum": NaN}',
        '{"minimum": Infinity}', '{"minimum": 1e400}', '{"enum": [1e400]}', '{"enum": [NaN]}',
        '{"enum": ["\\ud800"]}', '{"const": "\\udfff\\ud800"}', '{"properties": {"\\ud800": {}}}',
        '{"required": ["\\ud800"]}', '{"pattern": "\\ud800"}', '{"pattern": "\\\\ud800"}',
        '{"enum": ["\\u0000"]}', '{"properties": {"\\u0000": {}}}', '{"title": "\\ud800"}',
        '{"$ref": "#/\\ud800"}', "\ufeff{}", "{}{}", "{} x", '{"type": "string"} // comment',
        "[" * 200, '{"a":' * 200 + "1" + "}" * 200, '{"minimum": ' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_no_json_schema(text: str) -> None:
    refusal = refusal_of(check_guide, text) or refusal_of(compiled, text)
    assert not refusal or is_sentence(refusal)
    refusal.encode()


def test_of_two_keywords_of_one_name_the_last_counts() -> None:
    grammar = compiled("json_schema", '{"type": "string", "type": "null"}')
    assert matches(grammar, "null")
    assert not matches(grammar, '"a"')
