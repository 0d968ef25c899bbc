"""The TensorRT-LLM runtime on a fake of the library: the shared suites, and its own behaviour.

The fake is made of the recorded signatures of three versions and behaves as their sources say
(tests/fakes/tensorrt_llm). What only hardware can show is not shown here.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from types import ModuleType
from typing import Any

import pytest
from token_engine import async_loop
from token_engine.async_loop import EngineLost, Job
from token_engine.interface import Guide, GuideKind
from token_engine.library_results import IncompleteResponse, RefusedRequest
from token_engine.tensorrt_llm_runtime import engine as tensorrt_llm_engine
from token_engine.tensorrt_llm_runtime import loop as tensorrt_llm_loop

from tests.fakes.libraries.rigs import Rig as LibraryRig
from tests.fakes.libraries.rigs import subject_of
from tests.fakes.tensorrt_llm.fake_executor import Behaviour
from tests.fakes.tensorrt_llm.fake_results import RequestError
from tests.fakes.tensorrt_llm.rig import LIMITS, TORCH, VERSIONS, Rig, Start, ask, greedy, prompt
from tests.support.engine_answers import Answer, collect, drain, generate
from tests.support.library_suite import ReportedDeathSuite
from tests.support.processes import eventually
from tests.support.runtime_suite import RuntimeSuite, Subject

EARLY_TORCH = frozenset(
    {"min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "bad_words"}
)
# What each version of the library, and its other sampler, make of the suite.
SAMPLERS: dict[str, dict[str, Any]] = {
    "1_0": {
        "lacks": frozenset({"presence_penalty", "frequency_penalty", "top_logprobs"}),
        "drawn_logprobs": 1.0,
    },
    "1_2": {"lacks": frozenset({"top_logprobs"}), "drawn_logprobs": 1.0},
    "head": {"seeds": False, "draw_error": 0.1},
    "TorchSampler": {
        "lacks": EARLY_TORCH,
        "drawn_logprobs": 0.0,
        "seeds": False,
        "draw_error": 0.1,
    },
}


class TestTensorRtLlm(RuntimeSuite, ReportedDeathSuite):
    runtime = "tensorrt_llm"
    library = "TensorRT-LLM"
    behaviour = Behaviour

    @pytest.fixture(params=SAMPLERS)
    def subject(self, started: Start, request: pytest.FixtureRequest) -> Subject:
        name: str = request.param
        behaviour = Behaviour(step_seconds=0.0005)
        if name in VERSIONS:
            rig = started(name, behaviour=behaviour)
        else:
            rig = started(behaviour=behaviour, **TORCH)
        return subject_of(self.runtime, rig, min_p_first=True, **SAMPLERS[name])

    def break_aborts(self, rig: LibraryRig, monkeypatch: pytest.MonkeyPatch, fails: Any) -> None:
        monkeypatch.setattr(rig.worker, "abort_request", fails)

    def test_a_guide_holds(self, subject: Subject) -> None:
        for kind, text, expected in (
            # The library's own json_object is objects alone with llguidance.
            ("json", "", b'{"anyOf": [{"type": "object"}, {"type": "array"}]}'),
            ("json_schema", '{"type": "null"}', b'{"type": "null"}'),
            ("regex", "[ab]+", b"[ab]+"),
            ("ebnf_grammar", 'root ::= "a"', b'root ::= "a"'),
            ("choice", '["a.", ""]', b"(a\\.)?"),
        ):
            guide = Guide(kind, text)  # type: ignore[arg-type]
            one = subject.request(prompt(9), 60, end_ids=subject.eos, guide=guide)
            (answer,) = subject.answer(one)
            assert (bytes(answer.tokens), answer.reason) == (expected, "stop")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("backend", "kind", "text"),
    [
        ("xgrammar", "json_schema", "[]"),
        ("xgrammar", "regex", "("),
        ("xgrammar", "ebnf_grammar", "start ::= x"),
        ("llguidance", "json_schema", "[]"),
        ("llguidance", "regex", "("),
    ],
)
def test_a_guide_that_cannot_be_read_does_not_reach_the_library(
    started: Start, version: str, backend: str, kind: GuideKind, text: str
) -> None:
    """TensorRT-LLM 1.0 would end everybody's requests."""
    rig = started(version, guided_decoding_backend=backend)
    rig.engine.submit(ask(1, prompt(9), 5))
    rig.engine.submit(ask(2, prompt(9), 5, (2,), guide=Guide(kind, text)))
    answers = drain(rig.engine)
    assert (answers[2].reason, answers[2].fault) == ("error", "invalid")
    assert answers[2].error.startswith(f"guided_decoding_guide is refused by {backend}: ")
    assert answers[1].tokens == greedy(prompt(9), 5)
    assert len(rig.llm.requests) == 1


@pytest.mark.parametrize("backend", ["xgrammar", "llguidance"])
def test_a_guide_reader_of_another_version_ends_no_request(
    started: Start, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Then TensorRT-LLM decides alone."""
    rig = started(guided_decoding_backend=backend)
    monkeypatch.setitem(sys.modules, backend, ModuleType(backend))
    rig.engine.submit(ask(1, prompt(9), 5))
    rig.engine.submit(ask(2, prompt(9), 60, (2,), guide=Guide("regex", "ab")))
    answers = drain(rig.engine)
    assert answers[1].tokens == greedy(prompt(9), 5)
    assert answers[2].reason == "stop"


def test_tokens_that_are_handed_over_together(started: Start) -> None:
    engine = started(stream_interval=5).engine
    ids = prompt(9)
    engine.submit(ask(1, ids, 12))
    sizes = []
    answers: dict[int, Answer] = {}
    while engine.has_work:
        deltas = engine.step()
        sizes += [len(delta.token_ids) for delta in deltas]
        collect(deltas, answers)
    assert sizes == [5, 5, 2]
    assert answers[1].tokens == greedy(ids, 12)


def test_each_stage_of_a_pipeline_has_its_batch(started: Start) -> None:
    rig = started(behaviour=Behaviour(step_seconds=0.01, gpus=2), pipeline_parallel_size=2)
    for key in range(10):
        rig.engine.submit(ask(key, prompt(4, key), 100))

    def counts() -> tuple[int, int]:
        stats = rig.engine.stats()
        return stats.active_requests, stats.queued_requests

    eventually(lambda: counts() == (8, 2), "two full batches, and two that wait")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("guides", ["", "xgrammar"])  # whether the library has a tokenizer
def test_without_end_ids_nothing_ends_a_generation(
    started: Start, version: str, guides: str
) -> None:
    """Neither the tokenizer's end id (2 in the fake) nor the checkpoint's."""
    rig = started(version, guided_decoding_backend=guides)
    key, ids = next(
        (seed, prompt(6, seed)) for seed in range(5000) if 2 in greedy(prompt(6, seed), 12)[:9]
    )
    answer = generate(rig.engine, ask(key, ids, 12))[key]
    assert (answer.tokens, answer.reason) == (greedy(ids, 12), "length")


def test_long_prompts_need_chunked_prefill(started: Start) -> None:
    ids = prompt(200)
    assert generate(started().engine, ask(1, ids, 5))[1].tokens == greedy(ids, 5)
    rig = started(enable_chunked_prefill=False)
    fits = ask(1, ids[:64], 5)
    too_long = [ask(2, ids[:65], 5), ask(3, ids[:60], 10, (2,), min_tokens=5)]
    answers = generate(rig.engine, fits, *too_long)
    assert answers[1].tokens == greedy(ids[:64], 5)
    for key in (2, 3):
        assert (answers[key].reason, answers[key].fault) == ("error", "invalid")
        assert "has 65 tokens with its min_tokens and must have at most 64" in answers[key].error
    assert len(rig.llm.requests) == 1
    rig.engine.submit(too_long[0])
    rig.engine.cancel(2)
    assert not rig.engine.has_work


def test_tokens_that_are_on_their_way_are_dropped(started: Start) -> None:
    rig = started()
    rig.engine.submit(ask(1, prompt(4), 20))
    eventually(lambda: rig.engine.stats().active_requests == 0 and bool(rig.llm.requests), "an end")
    rig.engine.cancel(1)
    assert rig.engine.step() == []
    assert not rig.engine.has_work


def test_a_place_is_free_again_though_the_library_never_confirms_an_abort(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_llm_loop, "ABORT_PATIENCE_S", 0.1)
    rig = started(behaviour=Behaviour(step_seconds=0.001, lose_aborts=True))
    for key in range(4):
        rig.engine.submit(ask(key, prompt(4, key), 500))
    eventually(lambda: len(rig.llm.requests) == 4, "a full batch")
    for key in range(4):
        rig.engine.cancel(key)
    assert generate(rig.engine, ask(9, prompt(4), 3))[9].tokens == greedy(prompt(4), 3)


@pytest.mark.parametrize("keeps_errors", [False, True])
@pytest.mark.parametrize("after", [1, 3])
def test_a_request_that_fails_ends_alone(started: Start, after: int, keeps_errors: bool) -> None:
    """It is never at fault, because the library had accepted it."""
    bad = (7, *prompt(4))
    behaviour = Behaviour(reject={7: after}, keeps_errors=keeps_errors)
    engine = started(behaviour=behaviour).engine
    answers = generate(engine, ask(1, bad, 9), ask(2, prompt(4), 9))
    assert (answers[1].reason, answers[1].fault) == ("error", "engine")
    assert answers[1].error == "the request was rejected"
    assert answers[1].tokens == greedy(bad, after - 1)
    assert answers[2].tokens == greedy(prompt(4), 9)


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(step_seconds=0.001, broadcast_at_step=8),
        Behaviour(step_seconds=0.001, fail_all={8: "CUDA error: device-side assert triggered"}),
        Behaviour(step_seconds=0.001, fail_all={8: "an illegal memory access was encountered"}),
        Behaviour(step_seconds=0.001, fail_all={8: "CUDA error: unspecified launch failure"}),
        Behaviour(step_seconds=0.001, broadcast_at_step=8, keeps_errors=True),
    ],
    ids=["loop", "assert", "access", "launch", "kept"],
)
def test_a_failure_reported_to_all_requests_ends_the_engine(
    started: Start, behaviour: Behaviour
) -> None:
    """It arrives as each request's error, and blaming the requests would keep a dead engine."""
    engine = started(behaviour=behaviour).engine
    for key in range(3):
        engine.submit(ask(key, prompt(4, key), 100))
    with pytest.raises(EngineLost, match=r"TensorRT-LLM has failed: (Event loop|CUDA|an illegal)"):
        drain(engine)


def test_a_dead_engine_is_not_blamed_on_the_request_that_it_refuses(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the worker is in this process, its errors are raised at once."""

    def dead(*_: object, **__: object) -> None:
        raise RequestError("Event loop terminated with error: out of file descriptors")

    rig = started()
    monkeypatch.setattr(rig.llm, "generate_async", dead)
    rig.engine.submit(ask(1, prompt(4), 9))
    with pytest.raises(EngineLost, match="TensorRT-LLM has failed: Event loop terminated"):
        drain(rig.engine)


def test_a_failure_of_one_batch_is_not_the_engines_end(started: Start) -> None:
    behaviour = Behaviour(step_seconds=0.001, fail_all={8: "CUDA out of memory"})
    engine = started(behaviour=behaviour).engine
    answers = generate(engine, *(ask(key, prompt(4, key), 100) for key in range(3)))
    for answer in answers.values():
        assert (answer.reason, answer.fault) == ("error", "engine")
        assert answer.error == "CUDA out of memory"
    assert generate(engine, ask(9, prompt(4), 3))[9].tokens == greedy(prompt(4), 3)


def test_a_guide_that_the_library_cannot_compile_is_the_requests_fault(started: Start) -> None:
    """Whatever it quotes of the guide: words that tell of a dead engine are the client's here."""
    text = "unrecoverable: device-side assert"
    engine = started(behaviour=Behaviour(refuse_guides=(text,))).engine
    bad = ask(1, prompt(4), 9, (2,), guide=Guide("regex", text))
    answers = generate(engine, bad, ask(2, prompt(4), 9))
    assert (answers[1].reason, answers[1].fault) == ("error", "invalid")
    assert answers[1].error == (
        "guided_decoding_guide is refused by TensorRT-LLM: "
        f"Guided decoding error: unbalanced bracket in {text}"
    )
    assert answers[2].tokens == greedy(prompt(4), 9)


def test_a_guided_requests_later_failure_is_not_its_fault() -> None:
    job = Job(ask(1, prompt(4), 9, (2,), guide=Guide("regex", "a")))
    said = "Guided decoding error: failed to accept last new token: 7."
    assert isinstance(tensorrt_llm_loop.error_of(job, said), RefusedRequest)
    job.made.append(7)
    assert isinstance(tensorrt_llm_loop.error_of(job, said), IncompleteResponse)


def test_an_assertion_of_the_library_about_one_response_fails_that_request_alone(
    started: Start,
) -> None:
    """The library asserts as many log-probabilities as tokens (executor/result.py)."""
    rig = started(behaviour=Behaviour(step_seconds=0.001, forget_logprob={7: 3}))
    odd = (7, *prompt(4))
    answers = generate(rig.engine, ask(1, odd, 500, logprobs=0), ask(2, prompt(4), 9))
    assert (answers[1].reason, answers[1].fault) == ("error", "engine")
    assert answers[1].error.startswith("TensorRT-LLM failed at the request (AssertionError")
    assert answers[1].tokens == greedy(odd, 2)
    assert answers[2].tokens == greedy(prompt(4), 9)
    eventually(lambda: rig.worker.counts == (0, 0), "the library has let go of it")


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_log_probability_that_is_no_number_fails_its_request_alone(
    started: Start, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    rig = started("head")
    entry = rig.worker._entry
    monkeypatch.setattr(
        rig.worker, "_entry", lambda job, *more: value if job.prompt[0] == 7 else entry(job, *more)
    )
    odd = ask(1, (7, *prompt(4)), 9, logprobs=0)
    answers = generate(rig.engine, odd, ask(2, prompt(4), 9, logprobs=0))
    assert (answers[1].reason, answers[1].fault) == ("error", "engine")
    assert f"sent the log-probability {value} of token" in answers[1].error
    assert len(answers[2].logprobs) == 9


def test_a_response_of_another_kind_fails_its_request_alone(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = started("head")
    entry = rig.worker._entry
    monkeypatch.setattr(
        rig.worker, "_entry", lambda job, *more: "odd" if job.prompt[0] == 7 else entry(job, *more)
    )
    odd = ask(1, (7, *prompt(4)), 9, logprobs=0)
    answers = generate(rig.engine, odd, ask(2, prompt(4), 9, logprobs=0))
    assert (answers[1].reason, answers[1].fault) == ("error", "engine")
    assert answers[1].error.startswith("TensorRT-LLM sent a response of another kind (Attribute")
    assert len(answers[2].logprobs) == 9


def test_figures_go_on_after_a_pause(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's iterator stays at its end until the next request, and none need come."""
    monkeypatch.setattr(tensorrt_llm_loop, "WATCH_S", 0.02)
    monkeypatch.setattr(tensorrt_llm_loop, "STATS_PAUSE_S", 0.001)
    engine = started(behaviour=Behaviour(step_seconds=0.06)).engine
    engine.submit(ask(1, prompt(28), 100))
    eventually(lambda: engine.stats().kv_blocks_used == 1, "a first figure")
    eventually(lambda: engine.stats().kv_blocks_used == 2, "later ones, four tokens on")
    engine.cancel(1)


@pytest.mark.parametrize(("priority", "expected"), [(-100, 1.0), (0, 0.5), (100, 0.0)])
def test_the_librarys_queue_can_go_by_priority(
    started: Start, priority: int, expected: float
) -> None:
    rig = started("head", scheduler_config={"waiting_queue_policy": "priority"})
    generate(rig.engine, ask(1, prompt(4), 3, priority=priority))
    assert rig.llm.priorities == [expected]
    assert rig.llm.given["scheduler_config"]["waiting_queue_policy"] == "priority"


def test_by_default_the_library_gets_no_priority(started: Start) -> None:
    """Some versions have no such argument, and 1.3 warns of one that has no effect."""
    rig = started("1_2")
    generate(rig.engine, ask(1, prompt(4), 3, priority=9))
    assert rig.llm.priorities == [None]
    assert "waiting_queue_policy" not in rig.llm.given["scheduler_config"]


def test_a_request_whose_response_cannot_be_read_is_aborted(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the library would go on with it for nobody."""

    def unreadable(*_: object) -> None:
        raise IncompleteResponse("a response without log-probabilities")

    rig = started(behaviour=Behaviour(step_seconds=0.2))
    monkeypatch.setattr(tensorrt_llm_loop, "read_gain", unreadable)
    answer = generate(rig.engine, ask(1, prompt(4), 500))[1]
    assert (answer.reason, answer.fault) == ("error", "engine")
    eventually(lambda: rig.worker.counts == (0, 0), "its place is free")


def test_what_the_library_refuses_at_once_is_the_requests_fault(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(length: int) -> None:
        raise ValueError(f"prompt length ({length}) should not exceed max_num_tokens (3)")

    rig = started()
    monkeypatch.setattr(rig.llm, "_check_length", too_long)
    answer = generate(rig.engine, ask(1, prompt(4), 9))[1]
    assert (answer.reason, answer.fault) == ("error", "invalid")
    assert answer.error == "prompt length (4) should not exceed max_num_tokens (3)"


def test_a_refusal_by_its_workers_is_not(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives as the failure of an accepted request, like all errors of the workers."""
    rig = started()
    monkeypatch.setattr(tensorrt_llm_engine, "library_params", lambda *_: invalid(rig))
    answer = generate(rig.engine, ask(1, prompt(4), 9))[1]
    assert (answer.reason, answer.fault) == ("error", "engine")
    assert answer.error == "[TensorRT-LLM][ERROR] Assertion failed: topP"


def invalid(rig: Rig) -> Any:
    return rig.package.sampling_params(end_id=2, top_p=0.0)


def test_a_time_out_of_the_library(started: Start) -> None:
    engine = started(behaviour=Behaviour(time_out={7: 3})).engine
    ids = (7, *prompt(4))
    answer = generate(engine, ask(1, ids, 9))[1]
    assert (answer.tokens, answer.reason) == (greedy(ids, 3), "timeout")


def test_the_time_of_the_first_pass_is_that_of_the_first_part(started: Start) -> None:
    engine = started(behaviour=Behaviour(step_seconds=0.02)).engine
    before = time.time_ns()
    answer = generate(engine, ask(1, prompt(4), 14, (2,), min_tokens=10))[1]
    assert before - 2e6 <= answer.first_scheduled_ns < before + 150e6


def test_idleness_is_no_hang(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TensorRT engine reports no figures, so that the first token is the first sign."""
    monkeypatch.setattr(async_loop, "WATCH_S", 0.05)
    limits = dataclasses.replace(LIMITS, hang_timeout_s=2.0)
    behaviour = Behaviour(step_seconds=0.1)
    engine = started(behaviour=behaviour, limits=limits, backend="tensorrt").engine
    time.sleep(2.3)
    ids = prompt(190)
    assert generate(engine, ask(1, ids, 2))[1].tokens == greedy(ids, 2)
