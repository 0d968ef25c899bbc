"""What every runtime promises whose library has workers of its own, tested on a fake library.

A subclass names the runtime and brings the `started` fixture. `runtime_suite.py` tests requests and
tokens, `process_suite.py` the library in a real engine process.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from token_engine import async_loop
from token_engine.async_loop import EngineLost
from token_engine.interface import GenerationRequest, Guide, GuideKind

from tests.fakes.libraries.grammars import UNCOMPILABLE
from tests.fakes.libraries.rigs import LIMITS, Rig, prompt, subject_of
from tests.support.engine_answers import Answer, collect, drain
from tests.support.processes import eventually

Start = Callable[..., Rig]


class PanicException(BaseException):
    """As a library in Rust raises it: no `Exception`, so its request could wait forever."""


def panic(*_: object) -> None:
    raise PanicException("index out of bounds")


class LibrarySuite:
    """Collected in the subclasses."""

    runtime: ClassVar[str]
    library: ClassVar[str]  # its name, in sentences
    behaviour: ClassVar[Any]  # the class of its fake's

    def ask(self, rig: Rig, key: int, length: int, max_tokens: int, **more: Any) -> list[int]:
        """Submit a request; returns the greedy tokens that it must get."""
        subject = subject_of(self.runtime, rig)
        one = replace(subject.request(prompt(length, key), max_tokens, **more), key=key)
        rig.engine.submit(one)
        return subject.sure(one.prompt_ids, max_tokens)

    def test_workers_that_hang_end_the_engine(
        self, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise an engine whose steps return nothing would look alive to the supervisor."""
        monkeypatch.setattr(async_loop, "WATCH_S", 0.05)
        limits = replace(LIMITS, hang_timeout_s=0.3)
        rig = started(behaviour=self.behaviour(hang_at_step=5), limits=limits)
        began = time.monotonic()
        self.ask(rig, 1, 4, 100)
        with pytest.raises(EngineLost, match=f"{self.library} made no step in"):
            drain(rig.engine)
        assert time.monotonic() - began >= 0.3

    def test_a_long_prefill_is_not_a_hang(
        self, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It makes no token for many steps, but the library's statistics show progress."""
        monkeypatch.setattr(async_loop, "WATCH_S", 0.05)
        limits = replace(LIMITS, hang_timeout_s=2.0, max_num_tokens=8)
        rig = started(behaviour=self.behaviour(step_seconds=0.05), limits=limits)
        expected = self.ask(rig, 1, 500, 2)
        assert drain(rig.engine)[1].tokens == expected

    @pytest.mark.parametrize(
        ("submit", "said"), [(None, "'NoneType'"), (panic, "index out of bounds")]
    )
    def test_an_internal_failure_ends_the_engine(
        self, started: Start, monkeypatch: pytest.MonkeyPatch, submit: object, said: str
    ) -> None:
        """The request was not to blame: the whole engine must be started anew."""
        rig = started()
        monkeypatch.setattr(rig.worker, "submit", submit)
        self.ask(rig, 1, 4, 100)
        with pytest.raises(EngineLost, match=f"{self.library} has failed: {said}"):
            drain(rig.engine)

    def test_an_unimplemented_feature_fails_only_its_request(
        self, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig = started()
        submit = rig.worker.submit

        def odd(*_: object) -> None:
            monkeypatch.setattr(rig.worker, "submit", submit)
            raise NotImplementedError("not with this backend")

        monkeypatch.setattr(rig.worker, "submit", odd)
        self.ask(rig, 1, 4, 100)
        expected = self.ask(rig, 2, 4, 10)
        answers = drain(rig.engine)
        assert (answers[1].reason, answers[1].fault) == ("error", "engine")
        assert "NotImplementedError: not with this backend" in answers[1].error
        assert answers[2].tokens == expected

    @pytest.mark.parametrize("error", [ValueError, KeyError, AssertionError, ZeroDivisionError])
    def test_an_unreadable_response_fails_only_its_request(
        self, started: Start, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
    ) -> None:
        """It is not the client's fault, and the other requests go on."""
        module = importlib.import_module(f"token_engine.{self.runtime}_runtime.loop")
        read = module.read_gain

        def odd(output: Any, request: GenerationRequest) -> Any:
            if request.key == 1:
                raise error("of another kind")
            return read(output, request)

        monkeypatch.setattr(module, "read_gain", odd)
        rig = started(behaviour=self.behaviour(step_seconds=0.002))
        self.ask(rig, 1, 4, 500)
        expected = self.ask(rig, 2, 4, 10)
        answers = drain(rig.engine)
        assert (answers[1].reason, answers[1].fault) == ("error", "engine")
        said = f"{self.library} sent a response of another kind ({error.__name__}: "
        assert answers[1].error.startswith(said)
        assert answers[2].tokens == expected
        eventually(lambda: rig.worker.counts == (0, 0), "the library has let go of it")

    def test_a_failed_abort_does_not_end_the_engine(
        self, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That request has no listener left."""
        rig = started(behaviour=self.behaviour(step_seconds=0.002))
        engine: Any = rig.engine
        failed: list[Exception] = []

        def fails(*_: object, **__: object) -> Any:
            failed.append(KeyError("no such request"))
            raise failed[-1]

        self.ask(rig, 1, 4, 100)
        expected = self.ask(rig, 2, 4, 100)
        eventually(lambda: rig.worker.counts == (2, 0), "both of them run")
        self.break_aborts(rig, monkeypatch, fails)
        engine.cancel(1)
        assert drain(engine)[2].tokens == expected
        assert failed

    def break_aborts(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, fails: Any) -> None:
        """Let `fails` take the place of the library's own abort."""
        raise NotImplementedError

    def test_a_failing_health_check_ends_the_engine(
        self, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise the checks would stop, and a hang would go unnoticed."""
        monkeypatch.setattr(async_loop, "WATCH_S", 0.05)

        def broken() -> bool:
            raise RuntimeError("the pipe is closed")

        rig = started()
        monkeypatch.setattr(rig.engine._loop, "_is_healthy", broken)  # type: ignore[attr-defined]
        with pytest.raises(EngineLost, match=f"{self.library} has failed: the pipe is closed"):
            eventually(lambda: bool(rig.engine.step()) and False, "the failure is noticed")

    def test_an_ended_loop_ends_the_engine(self, started: Start) -> None:
        """However the loop ended: requests would get no answer."""
        rig = started()
        loop = rig.engine._loop._loop  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(loop.stop)
        with pytest.raises(EngineLost, match=f"the thread that speaks to {self.library} has ended"):
            eventually(lambda: bool(rig.engine.step()) and False, "the failure is noticed")

    def test_a_request_that_the_library_cancels_by_itself_ends_with_an_error(
        self, started: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig = started()
        submit = rig.worker.submit

        def cancelled(*_: object) -> None:
            monkeypatch.setattr(rig.worker, "submit", submit)
            raise asyncio.CancelledError

        monkeypatch.setattr(rig.worker, "submit", cancelled)
        self.ask(rig, 1, 4, 100)
        expected = self.ask(rig, 2, 4, 10)
        answers = drain(rig.engine)
        assert (answers[1].reason, answers[1].fault) == ("error", "engine")
        assert answers[1].error == f"{self.library} has cancelled the request by itself"
        assert answers[2].tokens == expected

    def test_a_cancelled_request_frees_its_place(self, started: Start) -> None:
        """In the library's own batch too."""
        rig = started(behaviour=self.behaviour(step_seconds=0.002))
        for key in range(LIMITS.max_batch_size):
            self.ask(rig, key, 4, 500)
        expected = self.ask(rig, 9, 4, 3)
        rig.engine.cancel(2)
        answers: dict[int, Answer] = {}
        while not answers.get(9, Answer()).reason:
            collect(rig.engine.step(), answers)
        assert answers[9].tokens == expected
        assert 2 not in answers
        # Otherwise it would begin only after the others, which are as long as the cancelled one.
        assert [answers[key].reason for key in (0, 1, 3)] == ["", "", ""]
        assert rig.worker.most_active == LIMITS.max_batch_size
        for key in (0, 1, 3):
            rig.engine.cancel(key)
        assert not rig.engine.has_work
        eventually(lambda: rig.worker.counts == (0, 0), "the library has freed all places")

    def test_a_step_neither_spins_nor_waits_for_long(self, started: Start) -> None:
        """It may return nothing, but must not hold up the engine process's loop."""
        rig = started(behaviour=self.behaviour(step_seconds=1))
        self.ask(rig, 1, 4, 30)
        eventually(lambda: bool(rig.engine.step()), "the first token, which comes at once")
        began, deltas = time.monotonic(), []
        while time.monotonic() - began < 0.1:
            deltas.append(rig.engine.step())
        assert not deltas[0]  # it did not wait for the next token
        assert len(deltas) <= 30
        rig.engine.cancel(1)

    def test_prefix_cache_hits_are_counted(self, started: Start) -> None:
        rig = started()
        self.ask(rig, 1, 100, 5)
        drain(rig.engine)
        eventually(lambda: rig.engine.stats().prefix_tokens_found > 0, "figures of a step")
        stats = rig.engine.stats()
        assert stats.prefix_tokens_found / stats.prefix_tokens_looked_up == rig.worker.hit_rate

    def test_shutdown_with_work_left(self, started: Start) -> None:
        threads = threading.active_count()
        rig = started(behaviour=self.behaviour(step_seconds=0.001))
        for key in range(9):
            self.ask(rig, key, 4, 500)
        rig.engine.step()
        worker = rig.worker
        rig.engine.shutdown()
        assert not worker.is_running
        eventually(lambda: threading.active_count() <= threads, "no thread left")

    def test_shutdown_does_not_wait_for_a_library_that_hangs(
        self,
        started: Start,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(async_loop, "SHUTDOWN_PATIENCE_S", 0.2)
        behaviour = self.behaviour(hang_on_shutdown=True)
        rig = started(behaviour=behaviour)
        began = time.monotonic()
        rig.engine.shutdown()
        assert time.monotonic() - began < 5
        assert f"{self.library} did not shut down in 0.2 s" in capsys.readouterr().err
        behaviour.hang_on_shutdown = False

    @pytest.mark.parametrize(
        ("kind", "text", "said"),
        [
            ("regex", "(", "unterminated subpattern"),
            ("json_schema", '{"type": "strin"}', "Unsupported type 'strin'"),
            ("json_schema", "[]", "Schema should be an object"),
            ("ebnf_grammar", "start ::= x", "root rule"),
        ],
    )
    def test_a_guide_that_the_library_refuses_ends_its_request_alone(
        self, started: Start, kind: GuideKind, text: str, said: str
    ) -> None:
        rig = started(behaviour=self.behaviour(step_seconds=0.002))
        expected = self.ask(rig, 1, 4, 20)
        end_ids = subject_of(self.runtime, rig).eos
        self.ask(rig, 2, 4, 20, guide=Guide(kind, text), end_ids=end_ids)
        answers = drain(rig.engine)
        assert (answers[2].reason, answers[2].fault) == ("error", "invalid")
        assert answers[2].error.startswith("guided_decoding_guide is refused by ")
        assert said in answers[2].error
        assert answers[1].tokens == expected
        assert self.ask(rig, 3, 4, 5) == drain(rig.engine)[3].tokens

    def test_a_guide_that_the_library_cannot_compile_ends_its_request_alone(
        self, started: Start
    ) -> None:
        rig = started(behaviour=self.behaviour(step_seconds=0.002))
        expected = self.ask(rig, 1, 4, 20)
        end_ids = subject_of(self.runtime, rig).eos
        self.ask(rig, 2, 4, 20, guide=Guide("json_schema", UNCOMPILABLE), end_ids=end_ids)
        answers = drain(rig.engine)
        assert (answers[2].reason, answers[2].fault) == ("error", "invalid")
        assert answers[2].error.startswith("guided_decoding_guide ")
        assert "compile" in answers[2].error or "nowhere" in answers[2].error
        assert answers[1].tokens == expected


class ReportedDeathSuite(LibrarySuite):
    """For a library that reports when its workers are dead."""

    @pytest.mark.parametrize("busy", [True, False])
    def test_dead_workers_end_the_engine(
        self, started: Start, monkeypatch: pytest.MonkeyPatch, busy: bool
    ) -> None:
        """A request may report it; an idle engine must check."""
        monkeypatch.setattr(async_loop, "WATCH_S", 0.05)
        rig = started(behaviour=self.behaviour(step_seconds=0.001, die_at_step=20))
        if busy:
            self.ask(rig, 1, 4, 100)
        else:
            rig.worker.dead = True
        told = rf"{self.library}('s workers are dead| has failed: .*(signal 9|EngineCore))"
        with pytest.raises(EngineLost, match=told):
            eventually(lambda: bool(rig.engine.step()) and False, "the death is noticed")
