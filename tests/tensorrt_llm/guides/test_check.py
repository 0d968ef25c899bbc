"""The check before the engine: every refusal is one sentence."""

from __future__ import annotations

import json

import pytest
from request_inputs.guide_bounds import MAX_BYTES

from tests.support.guide_matching import check_guide

WHOLE = json.dumps({"type": "object", "properties": {"é": {"type": "string"}}, "required": ["é"]})


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json", ""),
        ("json_schema", WHOLE),
        ("json_schema", " true "),
        ("json_schema", '{"items":' * 32 + "{}" + "}" * 32),
        ("json_schema", json.dumps({"const": "[[[[" * 100})),
        ("json_schema", json.dumps({"const": "(" * 65, "title": "(" * 65})),
        ("json_schema", json.dumps({"properties": {"(" * 65: {"enum": ["(" * 65]}}})),
        ("json_schema", '{"properties":{"a":' * 60 + "{}" + "}}" * 60),
        ("regex", "(ab|c)" * 200),
        ("regex", "é{2,3}|日本"),
        ("regex", "[(]" * 65 + r"\(" * 65 + "()" * 65),
        ("ebnf_grammar", 'root ::= "((" [(]' + ' "("' * 65 + " # (((" + "(" * 65),
        ("json_schema", json.dumps({"pattern": r"\(" * 65})),
        ("regex", "a" * MAX_BYTES),
        ("ebnf_grammar", 'root ::= "é" root | "."'),
    ],
)
def test_admitted(kind: str, text: str) -> None:
    check_guide(kind, text)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("", "{}", "guided_decoding_guide_type is missing and must be one of json, "),
        ("yaml", "a", "guided_decoding_guide_type is 'yaml' and must be one of json, "),
        ("JSON", "", "guided_decoding_guide_type is 'JSON' and must be"),
        ("x" * 1000, "", "guided_decoding_guide_type is 'xxx"),
        ("json", "{}", "guided_decoding_guide has 2 characters; it must be empty with the type"),
        (
            "json_schema",
            "",
            "guided_decoding_guide is empty; it must be a string with the type json_",
        ),
        ("regex", "", "guided_decoding_guide is empty"),
        ("regex", "a\0b", r"guided_decoding_guide has U\+0000 at character 1; it must"),
        ("regex", "a\ud800", r"guided_decoding_guide has U\+D800 at character 1"),
        ("ebnf_grammar", 'root ::= "\udfff"', r"has U\+DFFF"),
        (
            "regex",
            "a" * (MAX_BYTES + 1),
            "guided_decoding_guide has 65537 bytes; it must have at most 65536",
        ),
        ("regex", "é" * MAX_BYTES, "has 131072 bytes"),
        ("json_schema", "{", "guided_decoding_guide is not JSON .*; it must be a JSON schema"),
        ("json_schema", "{'type': 'string'}", "is not JSON"),
        ("json_schema", "NaN", "is not JSON .NaN is not a JSON number"),
        ("json_schema", '{"const": Infinity}', "Infinity is not a JSON number"),
        (
            "json_schema",
            '{"minimum": -' + "1" * 5000 + "}",
            "guided_decoding_guide has a number of 5000 digits; it must have at most 4300",
        ),
        ("json_schema", '{"const": "\\ud800"}', "half a surrogate pair"),
        ("json_schema", "[" * 60_000, "nests 60000 deep; it must nest at most 128 deep"),
        ("json_schema", '{"a":' * 129 + "1" + "}" * 129, "nests 129 deep"),
        ("json_schema", json.dumps({"pattern": "(" * 65}), "nests 65 deep"),
        ("json_schema", '{"pattern": "\\u0028' + "(" * 64 + '"}', "nests 65 deep"),
        ("json_schema", '{"patt\\u0065rn": "' + "(" * 65 + '"}', "nests 65 deep"),
        ("json_schema", json.dumps({"patternProperties": {"(" * 65: True}}), "nests 65 deep"),
        ("json_schema", '{"pattern": "' + "(" * 65 + '", "pattern": "a"}', "nests 65 deep"),
        ("json_schema", '{"$ref": "#/const", "const": {"pattern": "' + "(" * 65 + '"}}', "65 deep"),
        ("regex", ")" * 1000 + "(" * 65, "nests 65 deep"),
        ("ebnf_grammar", '// "\nroot: ' + "(" * 65, "nests 65 deep"),
        ("ebnf_grammar", "// [\nroot: " + "(" * 65, "nests 65 deep"),
        ("regex", "([)]" * 65, "nests 65 deep"),
        ("regex", r"\\(" * 65, "nests 65 deep"),
        ("ebnf_grammar", 'root ::= ")"' + '( ")"' * 65, "nests 65 deep"),
        ("ebnf_grammar", "# )\n" + "( # )\n" * 65, "nests 65 deep"),
        ("regex", "(" * 60_000, "nests 60000 deep; it must nest at most 64 deep"),
        ("ebnf_grammar", "root ::= " + "(" * 60_000, "nests 60000 deep"),
        ("ebnf_grammar", 'start ::= "a"', "guided_decoding_guide has no rule 'root'"),
        ("ebnf_grammar", f"root ::= {'a' * 60_000}", "calls the rule 'a{40}' in line 1"),
        ("ebnf_grammar", 'root ::= "a"{1\n2}', "has the count {1 2} in line 1"),
        ("regex", "\\p{\n}", r"has the property '\{\\n\}'"),
    ],
)
def test_refused(kind: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_guide(kind, text)
    sentence = str(error.value)
    assert " must " in sentence
    assert "\n" not in sentence
    assert len(sentence) < 400
    sentence.encode()
