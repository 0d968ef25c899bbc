"""What every runtime promises, with or without a model; a subclass brings the `subject` fixture.

Streaming, ends, cancels in every phase, late requests, limits and statistics. `runtime_suite.py`
adds what a runtime that samples promises, `library_suite.py` what one does whose library has
workers of its own.
"""

from __future__ import annotations

import time
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from token_engine.interface import GenerationRequest, TokenDelta, UnsupportedParameter

from tests.support.engine_answers import Answer, collect, drain
from tests.support.processes import eventually
from tests.support.runtime_subject import GREEDY, SAMPLED, Subject, is_idle


class StreamSuite:
    """Collected in the subclasses."""

    def test_greedy_tokens_are_the_models(self, subject: Subject) -> None:
        compared = 0
        prompts = [subject.prompt(length, length) for length in (1, 7, 20, 33)]
        answers = subject.answer(*(subject.request(prompt, 30) for prompt in prompts))
        for prompt, answer in zip(prompts, answers, strict=True):
            expected = subject.sure(prompt, 30, answer=answer.tokens)
            compared += len(expected)
            assert answer.tokens[: len(expected)] == expected
            assert (len(answer.tokens), answer.reason) == (30, "length")
        assert compared >= 20
        assert not subject.engine.has_work

    def test_tokens_come_as_they_are_made(self, subject: Subject) -> None:
        subject.engine.submit(subject.request(subject.prompt(5, 1), 40))
        deltas: list[TokenDelta] = []
        while subject.engine.has_work:
            deltas += subject.engine.step()
        assert len(deltas) >= 5
        assert sum(len(delta.token_ids) for delta in deltas) == 40
        assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)

    def test_an_end_id_at_once(self, subject: Subject) -> None:
        """The first token is among the end ids, and so are the prompt's."""
        prompt = subject.prompt(8, 2)
        (whole,) = subject.answer(subject.request(prompt, 4))
        ends = tuple({*prompt, *whole.tokens})
        for limit in (1, 4):
            (answer,) = subject.answer(subject.request(prompt, limit, end_ids=ends))
            assert (answer.tokens, answer.reason) == ([], "stop")

    def mixed(self, subject: Subject) -> list[GenerationRequest]:
        samplings = (
            GREEDY,
            replace(SAMPLED, temperature=0.8, seed=subject.seed(1)),
            replace(SAMPLED, temperature=1.3, top_k=5, seed=subject.seed(2)),
            replace(SAMPLED, top_p=0.7, seed=subject.seed(2**64 - 1)),
        )
        return [
            subject.request(
                subject.prompt(length, length), 6 + place, sampling=samplings[place % 4]
            )
            for place, length in enumerate((3, 30, 64, 65, 100, 1, 150, 40, 33, 70))
        ]

    def again(self, subject: Subject, request: GenerationRequest) -> GenerationRequest:
        return replace(request, key=next(subject.keys))

    def test_together_alone_and_joining_late(self, subject: Subject) -> None:
        requests = self.mixed(subject)
        alone = [subject.answer(one)[0] for one in requests]
        together = subject.answer(*(self.again(subject, one) for one in requests))
        late = [self.again(subject, one) for one in requests]
        joined: dict[int, Answer] = {}
        for one in late:
            subject.engine.submit(one)
            collect(subject.engine.step(), joined)
        drain(subject.engine, joined)
        for one, *answers in zip(
            requests, alone, together, [joined[one.key] for one in late], strict=True
        ):
            assert {len(answer.tokens) for answer in answers} == {one.max_tokens}
            if subject.repeats(one):
                assert answers[0].tokens == answers[1].tokens == answers[2].tokens
            elif one.sampling.greedy:
                for answer in answers:
                    sure = subject.sure(one.prompt_ids, one.max_tokens, answer=answer.tokens)
                    assert answer.tokens[: len(sure)] == sure

    def refused(self, subject: Subject, name: str, **more: Any) -> None:
        """The whole request is refused by that name, and leaves nothing behind."""
        with pytest.raises(
            UnsupportedParameter, match=rf"^{name} is .*; .*the {subject.runtime} runtime"
        ):
            subject.engine.submit(subject.request(subject.prompt(4, 1), 5, **more))
        assert not subject.engine.has_work

    def test_the_batch_keeps_its_size_and_waiting_requests_are_counted(
        self, subject: Subject
    ) -> None:
        count = subject.max_batch_size + 6
        for key in range(count):
            subject.engine.submit(subject.request(subject.prompt(4, key), 60))
        seen, answers = [], dict[int, Answer]()
        while subject.engine.has_work:
            collect(subject.engine.step(), answers)
            stats = subject.engine.stats()
            seen.append((stats.active_requests, stats.queued_requests))
            assert 0 <= stats.kv_blocks_used <= stats.kv_blocks_total
        assert max(active for active, _ in seen) == subject.max_batch_size
        assert max(queued for _, queued in seen) >= 6
        assert [len(answer.tokens) for answer in answers.values()] == [60] * count
        eventually(lambda: self.is_idle(subject), "an idle engine's statistics")

    def is_idle(self, subject: Subject) -> bool:
        subject.engine.step()
        return is_idle(subject.engine.stats())

    def test_kv_blocks_are_reported(self, subject: Subject) -> None:
        one = subject.request(subject.prompt(100, 1), 120)
        subject.engine.submit(one)
        most, answers = 0, dict[int, Answer]()
        while subject.engine.has_work:
            collect(subject.engine.step(), answers)
            most = max(most, subject.engine.stats().kv_blocks_used)
        total = subject.engine.stats().kv_blocks_total
        assert (most > 0, total > 0) == (subject.tells_kv_blocks, subject.tells_kv_blocks)

    def test_the_longest_request(self, subject: Subject) -> None:
        """A prompt of many chunks, up to the last token that fits."""
        length = subject.max_seq_len - 3
        (answer,) = subject.answer(subject.request(subject.prompt(length, 2), 3))
        assert (len(answer.tokens), answer.reason) == (3, "length")

    def test_the_lowest_priority_number_starts_first(self, subject: Subject) -> None:
        long = [
            subject.request(subject.prompt(3, key), 250) for key in range(subject.max_batch_size)
        ]
        for one in long:
            subject.engine.submit(one)
        answers: dict[int, Answer] = {}
        while len(answers) < len(long):  # all of them run
            collect(subject.engine.step(), answers)
        late = [
            subject.request(subject.prompt(5, 50 + key), 1, priority=priority)
            for key, priority in enumerate((0, 5, -3, -3, 9))
        ]
        for one in late:
            subject.engine.submit(one)
        collect(subject.engine.step(), answers)  # what was made before they came
        made = {key: len(answer.tokens) for key, answer in answers.items()}
        while any(len(answers[key].tokens) < count + 20 for key, count in made.items()):
            collect(subject.engine.step(), answers)  # until the library has seen all of them
        subject.engine.cancel(long[0].key)
        order: list[int] = []
        while len(order) < len(late):
            ended = [delta.key for delta in subject.engine.step() if delta.finish_reason]
            order += [key for key in ended if key in {one.key for one in late}]
        for one in long:
            subject.engine.cancel(one.key)
        assert order == [late[place].key for place in (2, 3, 0, 1, 4)]
        drain(subject.engine)

    def test_cancel_at_every_phase(self, subject: Subject) -> None:
        """Queued, in prefill, while decoding, after the end, twice, and unknown ones."""
        engine = subject.engine
        running = [
            subject.request(subject.prompt(3, key), 200) for key in range(subject.max_batch_size)
        ]
        for one in running:
            engine.submit(one)
        answers: dict[int, Answer] = {}
        while len(answers) < len(running):
            collect(engine.step(), answers)
        queued = subject.request(subject.prompt(6, 1), 5)
        engine.submit(queued)
        engine.cancel(queued.key)  # perhaps before the library has it
        second = subject.request(subject.prompt(6, 2), 5)
        engine.submit(second)
        engine.step()
        engine.cancel(second.key)
        engine.cancel(running[0].key)  # while decoding
        prefill = subject.request(subject.prompt(subject.max_seq_len - 9, 3), 5)
        engine.submit(prefill)
        engine.step()
        engine.cancel(prefill.key)
        engine.cancel(-5)
        last = subject.request(subject.prompt(6, 4), 3)
        engine.submit(last)
        for one in running[1:]:
            engine.cancel(one.key)
            engine.cancel(one.key)
        drained = drain(engine)
        assert list(drained) == [last.key]
        engine.cancel(last.key)
        eventually(lambda: self.is_idle(subject), "all places and KV blocks free")

    def test_storm_of_cancels_harms_nobody(self, subject: Subject) -> None:
        engine, random = subject.engine, Random(1)
        requests = self.mixed(subject)
        truth = [subject.answer(one)[0] for one in requests]
        answers: dict[int, Answer] = {}
        alive: dict[int, int] = {}
        cancelled: set[int] = set()
        for turn in range(120):
            one = self.again(subject, requests[turn % 10])
            engine.submit(one)
            alive[one.key] = turn % 10
            for _ in range(random.randrange(3)):
                victim = random.choice(list(alive))
                if not answers.get(victim, Answer()).reason:
                    cancelled.add(victim)
                engine.cancel(victim)
            deltas = engine.step()
            assert not cancelled & {delta.key for delta in deltas}
            collect(deltas, answers)
        drain(engine, answers)
        survivors = alive.keys() - cancelled
        assert len(cancelled) > 20
        assert len(survivors) > 20
        for key in survivors:
            expected = truth[alive[key]]
            assert len(answers[key].tokens) == len(expected.tokens)
            if subject.repeats(requests[alive[key]]):
                assert answers[key] == expected
        eventually(lambda: self.is_idle(subject), "all places and KV blocks free")

    def test_the_time_of_the_first_pass(self, subject: Subject) -> None:
        before = time.time_ns()
        (answer,) = subject.answer(subject.request(subject.prompt(4, 1), 5))
        if not subject.tells_first_pass:
            assert answer.first_scheduled_ns == 0
            return
        assert before - 50e6 <= answer.first_scheduled_ns <= time.time_ns() + 50e6

    def test_a_step_waits_for_a_token_but_not_for_long(self, subject: Subject) -> None:
        one = subject.request(subject.prompt(4, 1), 300)
        subject.engine.submit(one)
        began, steps = time.monotonic(), 0
        while time.monotonic() - began < 0.2:
            subject.engine.step()
            steps += 1
        subject.engine.cancel(one.key)
        assert steps >= 3
