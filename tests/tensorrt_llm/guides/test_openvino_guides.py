"""Guided decoding on OpenVINO: whatever the weights and the sampling, the output is in the guide's
language, and nobody else's tokens change."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from token_engine.interface import GenerationRequest, Guide, UnsupportedParameter
from token_engine.openvino_runtime.engine import OpenVinoEngine

from tests.support.byte_engine import (
    END,
    PROMPT,
    Detokenizer,
    check_answer,
    guided,
    write_byte_engine,
)
from tests.support.engine_answers import Answer, collect, drain, generate
from tests.support.json_schema_judge import is_valid
from tests.support.paths import DEMO
from tests.support.small_engines import build_engine, load_engine
from tests.tensorrt_llm.guides.test_ebnf import ARITHMETIC, BRACKETS, is_balanced, is_sum
from tests.tensorrt_llm.guides.test_json_schema import PERSON, SCHEMAS
from tests.tensorrt_llm.guides.test_regex import PATTERNS

ANY = Guide("json")
WORDS = Guide("regex", "[a-c]{2,4}( [a-c]{2,4})*!")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_engine(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[OpenVinoEngine]:
    engine = load_engine(folder)
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def text_of(folder: Path) -> Detokenizer:
    return Detokenizer(folder)


def all_guides() -> list[Guide]:
    return [
        ANY,
        *(Guide("regex", pattern) for pattern in PATTERNS if pattern),
        *(Guide("json_schema", json.dumps(schema)) for schema in SCHEMAS),
        *(Guide("ebnf_grammar", text) for text in (ARITHMETIC, BRACKETS)),
    ]


def test_every_guide_with_random_weights(engine: OpenVinoEngine, text_of: Detokenizer) -> None:
    """Greedy, sampled and nearly uniform, many at a time; each guide ends by itself sometimes."""
    ended = []
    for number, guide in enumerate(all_guides()):
        seeds = [None, *range(1, 12)]
        requests = [
            guided(100 * number + n, guide, seed, temperature=(0.7, 1.0, 50.0)[n % 3])
            for n, seed in enumerate(seeds)
        ]
        answers = generate(engine, *requests)
        for answer in answers.values():
            text = check_answer(answer, guide, text_of)
            if answer.reason == "stop" and guide.kind == "json_schema":
                assert is_valid(json.loads(text), json.loads(guide.text)), text
            elif answer.reason == "stop" and guide.kind == "regex":
                assert re.fullmatch(guide.text, text, re.ASCII)
            elif answer.reason == "stop" and guide.kind == "json":
                json.loads(text)
        ended.append(any(answer.reason == "stop" for answer in answers.values()))
    assert sum(ended) > 0.9 * len(ended)


@pytest.mark.parametrize(("grammar", "test"), [(ARITHMETIC, is_sum), (BRACKETS, is_balanced)])
def test_grammars_that_recur(
    engine: OpenVinoEngine, text_of: Detokenizer, grammar: str, test: object
) -> None:
    requests = [guided(n, Guide("ebnf_grammar", grammar), n, 3.0, 100) for n in range(40)]
    texts = {
        text_of(answer.tokens).decode()
        for answer in generate(engine, *requests).values()
        if answer.reason == "stop"
    }
    assert len(texts) > 3
    assert all(test(text) for text in texts)  # type: ignore[operator]


def test_the_demo_checkpoint(tmp_path: Path) -> None:
    """A trained model and a vocabulary of words."""
    folder = build_engine(DEMO / "checkpoint", tmp_path / "engine")
    engine, text_of = load_engine(folder), Detokenizer(folder)
    guides = [ANY, Guide("json_schema", json.dumps(PERSON)), WORDS]
    requests = [
        guided(n, guides[n % 3], n or None, 0.8, 120, (1793, 1800, 1801), (1792, 40, 41))
        for n in range(24)
    ]
    answers = generate(engine, *requests)
    engine.shutdown()
    for n, answer in answers.items():
        check_answer(answer, guides[n % 3], text_of)
    ended = [n for n, answer in answers.items() if answer.reason == "stop"]
    # A model of stories seldom ends a string by itself, and so no object.
    assert sum(guides[n % 3] is WORDS for n in ended) > 4


def test_characters_of_many_bytes(engine: OpenVinoEngine, text_of: Detokenizer) -> None:
    """Bytes and whole characters are both tokens: every way to write a text is found."""
    guides = {
        Guide("json_schema", '{"enum": ["é", "日本", "😀"]}'): {'"é"', '"日本"', '"😀"'},
        Guide("regex", "[\\u07ff-\\u0801]|[\\ud7ff-\\ue000]|[\\uffff-\U00010001]"): {
            "\u07ff", "\u0800", "\u0801", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U00010001",
        },
        Guide("ebnf_grammar", 'root ::= "ж" [ёж] | "\\U0010FFFF"'): {"жё", "жж", "\U0010ffff"},
    }  # fmt: skip
    for guide, expected in guides.items():
        answers = generate(engine, *(guided(n, guide, n, 80.0) for n in range(60)))
        assert {check_answer(answer, guide, text_of) for answer in answers.values()} == expected


CORNERS = [
    *"\x01\x08\t\n\x1b\x1f !-0359:AFGZ[\\]^_`afgz~\x7f\x80\x9f\xa0é\xff",
    "\u0100", "\u07ff", "\u0800", "\u0fff", "\u1000", "\ucfff", "\ud000", "\ud7ff", "\ue000",
    "\ufffe", "\uffff", "\U00010000", "\U0001f600", "\U0003ffff", "\U00040000",
    "\U000ff123", "\U0010ffff",
]  # fmt: skip


def test_any_set_of_characters(engine: OpenVinoEngine, text_of: Detokenizer) -> None:
    """The library prints grammars and reads them again, and gets some characters wrong."""
    random = Random(1)
    guides = []
    for _ in range(150):
        spans = [sorted(random.choices(CORNERS, k=2)) for _ in range(random.randrange(1, 5))]
        written = "".join(
            "-".join(f"\\U{ord(character):08X}" for character in span)
            for span in spans
            if not (span[0] < "\ud800" and span[1] > "\udfff" and random.random() < 0.5)
        )
        between = "".join(f"\\U{ord(character):08X}" for character in random.choices(CORNERS, k=3))
        if written:
            text = f'root ::= [{written}]{{2}} "{between}" [{written}] | "{between}"'
            guides.append(Guide("ebnf_grammar", text))
    requests = {
        (n, seed): guided(100 * n + seed, guide, seed, 80.0)
        for n, guide in enumerate(guides)
        for seed in range(12)
    }
    answers = generate(engine, *requests.values())
    for (n, _), one in requests.items():
        assert answers[one.key].reason == "stop"
        check_answer(answers[one.key], guides[n], text_of)


def test_no_text_is_written_by_a_special_token(
    engine: OpenVinoEngine, text_of: Detokenizer
) -> None:
    guide = Guide("ebnf_grammar", 'root ::= "<|0|>" | "<|1|>" | "<|3|>"')
    for answer in generate(engine, *(guided(n, guide, n, 9.0) for n in range(20))).values():
        assert answer.reason == "stop"
        assert check_answer(answer, guide, text_of) in ("<|0|>", "<|1|>", "<|3|>")


def test_only_the_end_of_the_grammar_ends(engine: OpenVinoEngine, text_of: Detokenizer) -> None:
    """The model would like to end at once, or never; a request without end ids ends too."""
    fixed = Guide("regex", "abcabcabc")
    free = Guide("regex", "a*")
    answers = generate(
        engine,
        guided(1, fixed, 1, 50.0),
        guided(2, fixed, 1, 50.0, end_ids=()),
        guided(3, fixed, max_tokens=3),
        *(guided(10 + n, free, n, 100.0, max_tokens=300) for n in range(20)),
    )
    for key in (1, 2):
        assert (answers[key].reason, text_of(answers[key].tokens)) == ("stop", b"abcabcabc")
    assert answers[3].reason == "length"
    assert b"abcabcabc".startswith(text_of(answers[3].tokens))
    assert {answers[10 + n].reason for n in range(20)} == {"stop"}
    assert len({len(answers[10 + n].tokens) for n in range(20)}) > 1


def test_log_probabilities_are_the_models_own(engine: OpenVinoEngine) -> None:
    requests = [guided(1, WORDS, 1), guided(2, WORDS)]
    requests = [GenerationRequest(**{**_fields(one), "logprobs": 0}) for one in requests]
    for answer in generate(engine, *requests).values():
        assert len(answer.logprobs) == len(answer.tokens) > 0
        assert all(logprob.logprob < -1 for logprob in answer.logprobs)  # of 512 tokens, not of 3


def _fields(one: GenerationRequest) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


def mixed() -> list[GenerationRequest]:
    """Guided and unguided, greedy and sampled, of different prompts."""
    guides = [None, ANY, None, WORDS, Guide("json_schema", json.dumps(PERSON))]
    return [
        guided(n, guides[n % 5], n if n % 3 else None, 1.2, 20 + 3 * n, prompt=PROMPT * (1 + n))
        for n in range(15)
    ]


@pytest.mark.parametrize("options", [{}, {"num_kv_blocks": 8}])
def test_the_batch_changes_nobodys_tokens(folder: Path, options: dict[str, object]) -> None:
    """Everyone alone; all at once, some cancelled on the way; and once more."""
    engine = load_engine(folder, **options)
    alone = {one.key: generate(engine, one)[one.key] for one in mixed()}
    random = Random(1)
    for turn in range(3):
        answers: dict[int, Answer] = {}
        cancelled = set(random.sample(range(15), 5)) if turn else set()
        for one in mixed():
            engine.submit(one)
            if random.random() < 0.5:
                collect(engine.step(), answers)
        for key in cancelled:
            for _ in range(random.randrange(4)):
                collect(engine.step(), answers)
            if not answers.get(key, Answer()).reason:
                engine.cancel(key)
        drain(engine, answers)
        for key in set(alone) - cancelled:
            assert answers[key] == alone[key]
    assert engine.stats().kv_blocks_used == 0
    engine.shutdown()


BAD = {
    Guide("regex", "(a|b)*a(a|b){20}"): "guided_decoding_guide needs more than 10000 states",
    Guide("regex", "a(?=b)"): "guided_decoding_guide has look-ahead '(?='",
    Guide("ebnf_grammar", 'root ::= root "a" | "b"'): "begins the rule 'root' with itself",
    Guide("ebnf_grammar", 'root ::= "a" (b'): "guided_decoding_guide has 'the end' in line 1",
    Guide("ebnf_grammar", 'root ::= "a" r\nr ::= "b" r'): "matches no text at all",
    Guide("json_schema", '{"minItems": "a"}'): "guided_decoding_guide has minItems 'a' at #",
    Guide("json_schema", '{"$ref": "#"}'): "guided_decoding_guide has the $ref '#' at #; it must",
    Guide("json_schema", "false"): "guided_decoding_guide matches no text at all",
    Guide("json_schema", "{"): "guided_decoding_guide is not JSON",
}


def test_bad_guides_end_their_own_requests_only(engine: OpenVinoEngine) -> None:
    """Also those that the room has let through."""
    alone = {one.key: generate(engine, one)[one.key] for one in mixed()}
    good, bad = mixed(), [guided(100 + n, guide) for n, guide in enumerate([*BAD, *BAD])]
    for n, one in enumerate([*good, *bad]):
        engine.submit(one)
        if n % 4 == 0:
            engine.submit(guided(1000 + n, list(BAD)[n % len(BAD)]))
    answers = drain(engine)
    for key, answer in answers.items():
        if key < 100:
            assert answer == alone[key]
        else:
            number = (key - 100) % len(BAD) if key < 1000 else (key - 1000) % len(BAD)
            assert (answer.tokens, answer.reason, answer.fault) == ([], "error", "invalid")
            assert list(BAD.values())[number] in answer.error
            assert "must " in answer.error
            assert "\n" not in answer.error


def test_parameters_that_a_guide_excludes(engine: OpenVinoEngine) -> None:
    fewest = GenerationRequest(**{**_fields(guided(1, ANY)), "min_tokens": 3})
    for wrong, message in (
        (fewest, "min_tokens is 3; with the openvino runtime it must be 0 with guided decoding"),
        (
            guided(2, ANY, end_ids=(1, 70)),
            "end_id is 70; with the openvino runtime it must be a special",
        ),
    ):
        with pytest.raises(UnsupportedParameter, match=message):
            engine.submit(wrong)
    assert not engine.has_work
    assert generate(engine, guided(3, None, end_ids=(1, 70)))[3].reason in ("stop", "length")


def test_the_end_id_is_no_part_of_the_output(engine: OpenVinoEngine) -> None:
    for end_ids in ((1,), (2, 1), (3,), END):
        answer = generate(engine, guided(1, Guide("regex", "ab"), 5, 30.0, end_ids=end_ids))[1]
        assert answer.reason == "stop"
        assert not set(answer.tokens) & {0, 1, 2, 3}
