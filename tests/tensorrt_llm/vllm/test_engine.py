"""The vLLM runtime on a fake of the library: the shared suite, and vLLM's own behaviour.

The fake is made of the recorded signatures of two versions and behaves as their sources say
(tests/fakes/libraries). `make test-vllm` runs the same suite on vLLM itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from token_engine.async_loop import EngineLost
from token_engine.interface import Guide, UnsupportedParameter
from token_engine.library_results import OBJECT_OR_ARRAY
from token_engine.vllm_runtime import engine as vllm_engine
from token_engine.vllm_runtime import sampling as vllm_sampling
from token_engine.vllm_runtime.loop import StepStats

from tests.fakes.libraries.fake_vllm import GenerationError, GracefulHTTPError
from tests.fakes.libraries.rigs import Rig, logits, prompt, start_vllm, subject_of
from tests.fakes.libraries.signatures import remove
from tests.fakes.libraries.worker import BLOCKS, Behaviour
from tests.support.engine_answers import drain
from tests.support.library_suite import ReportedDeathSuite
from tests.support.processes import eventually
from tests.support.runtime_suite import GREEDY, SAMPLED, RuntimeSuite, Subject

Start = Callable[..., Rig]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Start]:
    rigs: list[Rig] = []

    def make(version: str = "0_32", **settings: Any) -> Rig:
        rigs.append(start_vllm(tmp_path / "engine", version, **settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.engine.shutdown()
    remove("vllm", "torch")


class TestVllm(RuntimeSuite, ReportedDeathSuite):
    runtime = "vllm"
    library = "vLLM"
    behaviour = Behaviour

    @pytest.fixture(params=["0_32", "0_33"])
    def subject(self, started: Start, request: pytest.FixtureRequest) -> Subject:
        rig = started(request.param, behaviour=Behaviour(step_seconds=0.0005))
        return subject_of("vllm", rig, min_p_first=True)

    def break_aborts(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, fails: Any) -> None:
        monkeypatch.setattr(rig.llm, "abort", fails)

    def test_a_guide_holds(self, subject: Subject) -> None:
        for kind, text, expected in (
            ("json", "", OBJECT_OR_ARRAY.encode()),
            ("json_schema", '{"a": 1}', b'{"a": 1}'),
            ("regex", "[ab]+", b"[ab]+"),
            ("ebnf_grammar", "root ::= x", b"root ::= x"),
            ("choice", '["a \\"b\\"", "c"]', b'a "b"'),
            ("choice", '["a.\\n", "c"]', b"(a\\.\n|c)"),  # vLLM would break the line
        ):
            guide = Guide(kind, text)  # type: ignore[arg-type]
            one = subject.request(prompt(5), 80, end_ids=subject.eos, guide=guide)
            (answer,) = subject.answer(one)
            assert (bytes(answer.tokens), answer.reason) == (expected, "stop")


def ask(rig: Rig, key: int, length: int, max_tokens: int, **more: Any) -> None:
    one = subject_of("vllm", rig).request(prompt(length, key), max_tokens, **more)
    rig.engine.submit(replace(one, key=key))


def test_the_arguments_that_the_library_gets(started: Start) -> None:
    rig = started(
        gpu_memory_utilization=0.8, kv_cache_memory_bytes=2**30, more_engine_args={"seed": 5}
    )
    args = rig.llm.args
    assert (args.max_model_len, args.max_num_seqs, args.max_num_batched_tokens) == (600, 4, 64)
    assert (args.gpu_memory_utilization, args.kv_cache_memory_bytes, args.seed) == (0.8, 2**30, 5)
    assert args.generation_config == "vllm"  # else the checkpoint's temperature changes requests
    assert args.structured_outputs_config == {"backend": "auto"}
    assert not args.skip_tokenizer_init
    assert rig.engine.stats().kv_blocks_total == BLOCKS - 1  # one stands for "no block"
    ask(rig, 1, 5, 30, end_ids=(7, 8), priority=3)
    drain(rig.engine)
    ids, params, priority = rig.llm.requests[-1]
    assert (ids, priority) == (list(prompt(5, 1)), 3)
    assert (params.max_tokens, params.stop_token_ids, params.ignore_eos) == (30, [7, 8], True)
    assert not params.detokenize
    assert params.seed is None


@pytest.mark.parametrize("error", [TypeError("not a mapping"), RecursionError("too deep")])
def test_a_guide_that_vllm_cannot_read_fails_only_its_request(
    started: Start, error: Exception
) -> None:
    first = prompt(4, 1)[0]
    rig = started(behaviour=Behaviour(trouble={first: error}))
    ask(rig, 1, 4, 5, guide=Guide("regex", "a"), end_ids=(2,))
    ask(rig, 2, 4, 5)
    answers = drain(rig.engine)
    assert (answers[1].reason, answers[1].fault) == ("error", "invalid")
    assert answers[1].error.startswith("guided_decoding_guide is refused by vLLM: ")
    assert answers[2].reason == "length"


def test_without_a_backend_for_guides_no_tokenizer_is_loaded(started: Start) -> None:
    rig = started(structured_outputs_backend="")
    assert rig.llm.args.skip_tokenizer_init
    with pytest.raises(
        UnsupportedParameter,
        match=r"guided_decoding_guide_type is regex; with the vllm runtime it must be none",
    ):
        ask(rig, 1, 4, 5, guide=Guide("regex", "a"), end_ids=(2,))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"sampling": replace(SAMPLED, temperature=2.5)},
            "temperature is 2.5; with the vllm runtime it must be 0, or 0.01 to 2",
        ),
        ({"sampling": replace(SAMPLED, temperature=0.005)}, "temperature is 0.005; "),
        (
            {"guide": Guide("json")},
            "ignore_eos is true; with the vllm runtime it must be false with a",
        ),
        (
            {"guide": Guide("json"), "end_ids": (2,), "min_tokens": 2},
            "min_tokens is 2; with the vllm runtime it must be 0 with a guide",
        ),
        # The library itself refuses what only it knows.
        (
            {"sampling": replace(SAMPLED, top_p=0.0)},
            "the vllm runtime refuses it: top_p is wrong",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    started: Start, more: dict[str, Any], expected: str
) -> None:
    rig = started()
    with pytest.raises(UnsupportedParameter, match=expected):
        ask(rig, 1, 4, 5, **more)
    assert not rig.engine.has_work


@pytest.mark.parametrize(("words", "length"), [(256, 1), (256, 8), (2, 1024)])
def test_as_many_bad_words_as_room_2_admits(
    started: Start, monkeypatch: pytest.MonkeyPatch, words: int, length: int
) -> None:
    """vLLM's own limits are half of these, and a request beyond them ends its worker."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("VLLM_MAX_NUM_BAD_WORDS", "VLLM_MAX_BAD_WORDS_TOTAL_TOKENS"):
        os.environ.pop(name, None)
    rig = started()
    ask(rig, 1, 5, 3, bad_words=tuple((5 + word % 30,) * length for word in range(words)))
    assert drain(rig.engine)[1].reason == "length"


def test_nothing_is_reported_or_fetched(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither usage statistics nor a call to the hub."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    names = ("VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "HF_HUB_OFFLINE")
    for name in names:
        os.environ.pop(name, None)
    started()
    assert [os.environ.get(name) for name in names] == ["1", "1", "1"]


def test_extreme_temperatures_reach_the_library_unchanged(started: Start) -> None:
    rig = started()
    for key, temperature in enumerate((0.01, 2.0)):
        ask(rig, key, 4, 2, sampling=replace(SAMPLED, temperature=temperature))
        drain(rig.engine)
        assert rig.llm.requests[-1][1].temperature == temperature


def test_tokens_that_arrive_together_make_one_delta(started: Start) -> None:
    """The library joins outputs that nobody has read yet."""
    rig = started()
    ask(rig, 1, 4, 30)
    ask(rig, 2, 4, 30, logprobs=1)
    answers = drain(rig.engine)
    assert [len(answers[key].tokens) for key in (1, 2)] == [30, 30]
    assert len(answers[2].logprobs) == 30


@pytest.mark.parametrize(("after", "fault"), [(1, "engine"), (3, "engine")])
def test_a_request_that_fails_ends_alone(started: Start, after: int, fault: str) -> None:
    rig = started(behaviour=Behaviour(fail={7: after}))
    bad = subject_of("vllm", rig).request((7, *prompt(4)), 9)
    rig.engine.submit(bad)
    ask(rig, 2, 4, 9)
    answers = drain(rig.engine)
    failed = answers[bad.key]
    assert (failed.reason, failed.fault) == ("error", fault)
    assert failed.error == "vLLM ended the request: error"
    assert len(failed.tokens) == after - 1
    assert len(answers[2].tokens) == 9


def test_a_late_refusal_by_the_library_is_the_requests_fault(started: Start) -> None:
    rig = started()
    one = subject_of("vllm", rig).request(prompt(600), 5)  # room 2 lets no such prompt in
    rig.engine.submit(one)
    answer = drain(rig.engine)[one.key]
    assert (answer.reason, answer.fault) == ("error", "invalid")
    assert "The decoder prompt (length 600)" in answer.error


@pytest.mark.parametrize(
    ("trouble", "fault", "said"),
    [
        (ModuleNotFoundError("No module named 'x'"), "engine", "ModuleNotFoundError: No module"),
        (ValueError("a grammar of no rules"), "invalid", "a grammar of no rules"),
        (GenerationError("Please retry"), "engine", "GenerationError: Please retry"),
        (GracefulHTTPError("too many requests"), "engine", "HTTPError: too many requests"),
    ],
)
@pytest.mark.parametrize("version", ["0_32", "0_33"])
def test_the_cause_of_a_failed_request_is_named(
    started: Start, version: str, trouble: Exception, fault: str, said: str
) -> None:
    """vLLM's EngineGenerateError has no message; 0.33 raises GenerationError without it."""
    rig = started(version, behaviour=Behaviour(trouble={7: trouble}))
    bad = subject_of("vllm", rig).request((7, *prompt(4)), 9)
    rig.engine.submit(bad)
    ask(rig, 2, 4, 9)
    answers = drain(rig.engine)
    assert (answers[bad.key].reason, answers[bad.key].fault) == ("error", fault)
    assert said in answers[bad.key].error
    assert len(answers[2].tokens) == 9


@pytest.mark.parametrize("error", [ValueError, AssertionError])
def test_an_error_after_acceptance_is_not_the_requests_fault(
    started: Start, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    rig = started()
    generate = rig.llm.generate

    async def odd(*args: Any, **kwargs: Any) -> Any:
        async for output in generate(*args, **kwargs):
            yield output
            if args[2] == "1":
                raise error("shapes differ")

    monkeypatch.setattr(rig.llm, "generate", odd)
    ask(rig, 1, 4, 9)
    ask(rig, 2, 4, 9)
    answers = drain(rig.engine)
    assert (answers[1].reason, answers[1].fault) == ("error", "engine")
    assert "shapes differ" in answers[1].error
    assert len(answers[2].tokens) == 9


def test_figures_that_are_missing_do_not_end_its_engine() -> None:
    """vLLM calls its loggers in the task that hands out all tokens."""
    stats = StepStats()
    stats.record(SimpleNamespace(num_running_reqs=3, kv_cache_usage=0.5), None)
    assert (stats.running, stats.kv_usage, stats.prefix_hits) == (3, 0.5, 0)


def test_a_request_that_the_librarys_parameters_reject_is_refused(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises, one request may not end the process."""

    def odd(*_: object) -> None:
        raise TypeError("unsupported operand")

    rig = started()
    monkeypatch.setattr(vllm_engine, "library_params", odd)
    with pytest.raises(UnsupportedParameter, match="the vllm runtime refuses it: unsupported op"):
        ask(rig, 1, 4, 9)
    assert not rig.engine.has_work


def test_seeds_on_a_cpu_do_not_end_the_worker(started: Start) -> None:
    """There, a seed with a prompt computed in chunks kills vLLM's worker."""
    rig = started(behaviour=Behaviour(capability=None))
    sampling = replace(SAMPLED, seed=3)
    for key in range(6):
        ask(rig, key, 150 + key, 5, sampling=sampling)
    answers = drain(rig.engine)
    assert [len(answers[key].tokens) for key in range(6)] == [5] * 6
    assert rig.llm.args.enable_chunked_prefill is False


def test_an_abort_before_the_library_has_the_request_is_made_again(started: Start) -> None:
    rig = started(behaviour=Behaviour(step_seconds=0.1))
    for key in range(30):
        ask(rig, key, 4, 500)
        rig.engine.cancel(key)
    eventually(lambda: rig.llm.worker.counts == (0, 0) and not rig.llm._collectors, "nothing left")
    eventually(lambda: rig.engine.stats().queued_requests == 0, "no place held here")


TRAPS: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("max_tokens", lambda params: params.pop("max_tokens")),
    ("ignore_eos", lambda params: params.update(ignore_eos=False)),
    ("a keyword that is not there", lambda params: params.update(max_new_tokens=5)),
    ("text", lambda params: params.update(detokenize=True, output_kind=None)),
]


@pytest.mark.parametrize(("name", "spoil"), TRAPS, ids=[trap[0] for trap in TRAPS])
def test_the_fake_fails_where_the_real_one_would(
    started: Start, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[..., object]
) -> None:
    """Each of these is a mistake that the fake's signatures or behaviour turn into a failure."""
    rig = started()
    library = rig.engine._library  # type: ignore[attr-defined]

    def spoilt(**params: Any) -> Any:
        spoil(params)
        return rig.package.sampling_params(**params)

    broken = replace(library, sampling_params=spoilt)
    monkeypatch.setattr(rig.engine, "_library", broken)
    with pytest.raises((AssertionError, UnsupportedParameter, EngineLost)):
        expect_twenty_tokens(rig)


def expect_twenty_tokens(rig: Rig) -> None:
    """The model must choose the tokenizer's end id here, and it must end no request."""
    ask(rig, 1, 5, 20, token_bias=((2, 1000.0),))
    answer = drain(rig.engine)[1]
    assert (len(answer.tokens), answer.reason) == (20, "length")


def test_the_fakes_greedy_tokens_are_the_models(started: Start) -> None:
    """The suite's truth itself: the argmax of the model's logits."""
    rig = started()
    ask(rig, 1, 6, 3, sampling=GREEDY)
    (first, *_) = drain(rig.engine)[1].tokens
    assert first == int(logits(prompt(6, 1)).argmax())
    assert vllm_sampling.LEAST_TEMPERATURE == 0.01
