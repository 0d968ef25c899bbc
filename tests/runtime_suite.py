"""What every runtime that samples promises, as one suite: a subclass brings the `subject` fixture.

The truth is the subject's own logits and the plain formulas of `token_engine/interface.py`. Where a
runtime computes in BF16, its greedy tokens are the truth's best wherever that leads by `margin`,
and among those that are as near elsewhere; draws are compared with themselves, alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import pytest
from engine_answers import Answer, Floats, collect, drain
from token_engine.interface import (
    GenerationRequest,
    SamplingParams,
    TokenDelta,
    TokenEngine,
    UnsupportedParameter,
)
from token_engine.registry import RUNTIMES

PATIENCE_S = 60.0
GREEDY = SamplingParams()
SAMPLED = replace(GREEDY, greedy=False)
Adjust = Callable[[Floats, list[int]], Floats]


@dataclass
class Subject:
    """An engine under test and the truth about its model."""

    runtime: str
    engine: TokenEngine
    logits: Callable[[Sequence[int]], Floats]  # of the token after these
    prompt: Callable[[int, int], tuple[int, ...]]  # (length, seed): ids that end nothing
    vocab_size: int
    eos: tuple[int, ...]  # of the checkpoint
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    margin: float = 0.0  # by which the best logit must lead to be sure
    exact: bool = True  # whether tokens are the same in any batch
    min_p_first: bool = False  # before top_k and top_p
    logprob_error: float = 1e-9
    draw_error: float = 0.0  # of a distribution that is drawn from, as a total variation distance
    draws: int = 400
    tells_first_pass: bool = True
    keys: Any = dataclasses.field(default_factory=lambda: itertools.count(1))

    def has(self, feature: str) -> bool:
        """Whether the registry offers it."""
        return feature in RUNTIMES[self.runtime].features

    def request(self, prompt: Sequence[int], max_tokens: int, **more: Any) -> GenerationRequest:
        """With a key of its own; greedy unless told otherwise."""
        fields: dict[str, Any] = {"end_ids": (), **more}
        return GenerationRequest(next(self.keys), tuple(prompt), max_tokens, **fields)

    def answer(self, *requests: GenerationRequest) -> list[Answer]:
        """Submitted all at once, stepped to the end."""
        for one in requests:
            self.engine.submit(one)
        answers = drain(self.engine)
        return [answers[one.key] for one in requests]

    def sure(
        self,
        prompt: Sequence[int],
        count: int,
        adjust: Adjust | None = None,
        margin: float = 0.0,
        answer: Sequence[int] = (),
    ) -> list[int]:
        """The truth's greedy tokens, up to where its two best come too close to be sure.

        With `answer`, the engine's tokens, it goes on from there with the one that is in it, as
        long as that one is as close to the best.
        """
        margin = max(self.margin, margin)
        output: list[int] = []
        while len(output) < count:
            logits = self.logits([*prompt, *output]).copy()
            if adjust is not None:
                logits = adjust(logits, output)
            second, first = np.sort(logits)[-2:]
            best = int(logits.argmax())
            if first - second <= margin:
                if len(output) >= len(answer) or first - logits[answer[len(output)]] > margin:
                    break
                best = answer[len(output)]
            output.append(best)
        return output


def differ(tokens: Sequence[int], others: Sequence[int]) -> bool:
    """Whether they do, as far as both go."""
    return any(one != other for one, other in zip(tokens, others, strict=False))


def repetition(penalty: float, prompt: Sequence[int], logits: Floats, output: list[int]) -> Floats:
    """Keskar et al. 2019, of prompt and output."""
    seen = list({*prompt, *output})
    logits[seen] *= np.where(logits[seen] < 0, penalty, 1 / penalty)
    return logits


def occurrence(presence: float, frequency: float, logits: Floats, output: list[int]) -> Floats:
    """OpenAI's formula, of the output alone."""
    for token in set(output):
        logits[token] -= presence + frequency * output.count(token)
    return logits


def distribution(logits: Floats, sampling: SamplingParams, min_p_first: bool) -> Floats:
    """Temperature; then top_k, of these the fewest that reach top_p; min_p before or after."""
    shares = np.exp((logits - logits.max()) / sampling.temperature)
    shares /= shares.sum()
    if min_p_first:
        shares[shares < sampling.min_p * shares.max()] = 0
    order = np.argsort(-shares)
    if sampling.top_k:
        shares[order[sampling.top_k :]] = 0
    reached = np.cumsum(shares[order]) / shares.sum()
    shares[order[np.searchsorted(reached, sampling.top_p) + 1 :]] = 0
    shares[shares < sampling.min_p * shares.max()] = 0
    result: Floats = shares / shares.sum()
    return result


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Poll until it holds; fails the test if it never does."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.005)


class RuntimeSuite:
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

    def mixed(self, subject: Subject) -> list[GenerationRequest]:
        samplings = (
            GREEDY,
            replace(SAMPLED, temperature=0.8, seed=1),
            replace(SAMPLED, temperature=1.3, top_k=5, seed=2),
            replace(SAMPLED, top_p=0.7, seed=2**64 - 1),
        )
        return [
            subject.request(
                subject.prompt(length, length), 6 + place, sampling=samplings[place % 4]
            )
            for place, length in enumerate((3, 30, 64, 65, 100, 1, 150, 40, 33, 70))
        ]

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
            if subject.exact:
                assert answers[0].tokens == answers[1].tokens == answers[2].tokens
            elif one.sampling.greedy:
                for answer in answers:
                    sure = subject.sure(one.prompt_ids, one.max_tokens, answer=answer.tokens)
                    assert answer.tokens[: len(sure)] == sure

    def again(self, subject: Subject, request: GenerationRequest) -> GenerationRequest:
        return replace(request, key=next(subject.keys))

    def test_any_end_id_stops_and_is_not_part_of_the_output(self, subject: Subject) -> None:
        for seed in range(20):
            prompt = subject.prompt(20, seed)
            whole = subject.answer(subject.request(prompt, 20))[0].tokens
            if len(set(whole[:4])) == 4:
                break
        place = next(i for i, token in enumerate(whole) if i >= 2 and token not in whole[:i])
        end = whole[place]
        never = next(t for t in range(5, subject.vocab_size) if t not in whole)
        for end_ids in ((end,), (never, end), (end, never)):
            for limit in (20, place + 1):
                (answer,) = subject.answer(subject.request(prompt, limit, end_ids=end_ids))
                assert (answer.tokens, answer.reason) == (whole[:place], "stop")
        (answer,) = subject.answer(subject.request(prompt, 20, end_ids=(never, whole[0])))
        assert (answer.tokens, answer.reason) == ([], "stop")
        subject.engine.submit(subject.request(prompt, 20, end_ids=(never, end)))
        deltas: list[TokenDelta] = []
        while subject.engine.has_work:
            deltas += subject.engine.step()
        assert deltas[-1].end_id == end

    def test_without_end_ids_the_checkpoints_own_do_not_stop(self, subject: Subject) -> None:
        bias = tuple((token, 1000.0) for token in subject.eos[:1])
        wants = subject.request(subject.prompt(9, 4), 8, token_bias=bias)
        (answer,) = subject.answer(wants)
        assert (answer.tokens, answer.reason) == ([subject.eos[0]] * 8, "length")
        ends = replace(self.again(subject, wants), end_ids=subject.eos)
        (answer,) = subject.answer(ends)
        assert (answer.tokens, answer.reason) == ([], "stop")

    def test_no_end_id_before_min_tokens(self, subject: Subject) -> None:
        prompt = subject.prompt(12, 5)
        likely = np.argsort(-subject.logits(prompt))[:3].tolist()
        ends = tuple(sorted({*likely, *subject.eos}))
        for least in (1, 5, 12):
            (answer,) = subject.answer(subject.request(prompt, 12, end_ids=ends, min_tokens=least))
            assert len(answer.tokens) >= least
            assert not {*answer.tokens} & {*ends}
        (without,) = subject.answer(subject.request(prompt, 12, min_tokens=12))
        sure = subject.sure(prompt, 12)
        assert without.tokens[: len(sure)] == sure

    def test_seeds_over_the_whole_range(self, subject: Subject) -> None:
        seeds = (0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
        prompt, hot = subject.prompt(10, 6), replace(SAMPLED, temperature=2.0)
        rounds = [
            [
                subject.answer(subject.request(prompt, 16, sampling=replace(hot, seed=seed)))[0]
                for seed in seeds
            ]
            for _ in range(2)
        ]
        assert rounds[0] == rounds[1]
        # Torch's generator on a CPU knows a seed's lower 32 bits alone.
        different = len({tuple(answer.tokens) for answer in rounds[0]})
        assert different == len(seeds) if subject.exact else different >= 4

    def test_greedy_ignores_the_sampling_numbers(self, subject: Subject) -> None:
        prompt = subject.prompt(10, 7)
        odd = replace(GREEDY, temperature=2.0, top_k=3, top_p=0.1, min_p=0.9, seed=9)
        plain = subject.answer(subject.request(prompt, 8))
        assert subject.answer(subject.request(prompt, 8, sampling=odd)) == plain

    @pytest.mark.parametrize(
        "sampling",
        [
            replace(SAMPLED, temperature=0.3),
            replace(SAMPLED, temperature=1.5, top_k=5),
            replace(SAMPLED, temperature=1.0, top_p=0.7),
            replace(SAMPLED, temperature=1.8, top_k=8, top_p=0.9),
            replace(SAMPLED, temperature=1.2, min_p=0.1),
            replace(SAMPLED, temperature=1.5, min_p=0.05, top_k=6, top_p=0.8),
            replace(SAMPLED, temperature=0.02),
        ],
        ids=str,
    )
    def test_sampling_follows_the_plain_definition(
        self, subject: Subject, sampling: SamplingParams
    ) -> None:
        # One whose best token leads by what the arithmetic is off: a low temperature shows no less.
        prompt = next(
            prompt
            for prompt in (subject.prompt(15, seed) for seed in itertools.count(8))
            if np.ptp(np.sort(subject.logits(prompt))[-2:]) > subject.margin
        )
        expected = distribution(subject.logits(prompt).copy(), sampling, subject.min_p_first)
        answers = subject.answer(
            *(
                subject.request(prompt, 1, sampling=replace(sampling, seed=seed))
                for seed in range(subject.draws)
            )
        )
        drawn = [answer.tokens[0] for answer in answers]
        counts = np.bincount(drawn, minlength=subject.vocab_size)
        distance = np.abs(counts / subject.draws - expected).sum() / 2
        # What a sample of this size differs by on average; seeds are fixed.
        noise = np.sqrt(2 / np.pi * expected * (1 - expected) / subject.draws).sum() / 2
        assert distance < 1.5 * noise + 0.01 + subject.draw_error
        if subject.exact:
            assert counts[expected == 0].sum() == 0

    @pytest.mark.parametrize("penalty", [0.7, 1.5, 2.0])
    def test_repetition_penalty_of_prompt_and_output(
        self, subject: Subject, penalty: float
    ) -> None:
        sampling = replace(GREEDY, repetition_penalty=penalty)
        if not subject.has("repetition_penalty"):
            self.refused(subject, "repetition_penalty", sampling=sampling)
            return
        of_prompt = of_output = 0
        for seed in range(6):
            prompt = subject.prompt(40, seed)
            (answer,) = subject.answer(subject.request(prompt, 24, sampling=sampling))

            def chosen(
                seen: Sequence[int], output: bool, prompt: Any = prompt, got: Any = answer.tokens
            ) -> list[int]:
                return subject.sure(
                    prompt,
                    24,
                    lambda logits, so_far: repetition(
                        penalty, seen, logits, so_far if output else []
                    ),
                    answer=got,
                )

            expected = chosen(prompt, True)
            assert answer.tokens[: len(expected)] == expected
            of_prompt += differ(chosen((), True), expected)
            of_output += differ(chosen(prompt, False), expected)
        assert of_prompt + of_output  # else nothing was shown

    @pytest.mark.parametrize(("presence", "frequency"), [(1.5, 0), (0, 1.0), (-2, 0), (-0.5, 1.5)])
    def test_penalties_are_openais_of_the_output(
        self, subject: Subject, presence: float, frequency: float
    ) -> None:
        """Greedy, and with a temperature that no draw feels: they act before the division by it."""
        shown = 0
        for seed, sampling in enumerate((GREEDY, GREEDY, replace(SAMPLED, temperature=0.02)) * 2):
            chosen = replace(sampling, presence_penalty=presence, frequency_penalty=frequency)
            prompt = subject.prompt(25, seed)
            (answer,) = subject.answer(subject.request(prompt, 24, sampling=chosen))
            expected = subject.sure(
                prompt,
                24,
                lambda logits, output: occurrence(presence, frequency, logits, output),
                0 if sampling.greedy else 0.6,  # thirty temperatures: no draw goes the other way
                answer.tokens if sampling.greedy else (),
            )
            assert answer.tokens[: len(expected)] == expected
            shown += differ(subject.sure(prompt, 24, answer=answer.tokens), expected)
        assert shown

    def test_bias_and_bad_words(self, subject: Subject) -> None:
        prompt = subject.prompt(18, 9)
        (answer,) = subject.answer(subject.request(prompt, 10))
        plain = subject.sure(prompt, 10, answer=answer.tokens)
        assert len(plain) >= 3
        bias = ((plain[0], -1000.0), (next(iter({5, 6, 7} - {*plain})), 0.25))

        def biased(logits: Floats, _: list[int]) -> Floats:
            for token, value in bias:
                logits[token] += value
            return logits

        (answer,) = subject.answer(subject.request(prompt, 10, token_bias=bias))
        expected = subject.sure(prompt, 10, biased, answer=answer.tokens)
        assert answer.tokens[: len(expected)] == expected
        words = ((plain[0],), (plain[1], plain[2]))
        if not subject.has("bad_words"):
            self.refused(subject, "bad_words", bad_words=words)
            return
        (alone,) = subject.answer(subject.request(prompt, 10, bad_words=words[:1]))
        assert plain[0] not in alone.tokens
        (pair,) = subject.answer(subject.request(prompt, 10, bad_words=words[1:]))
        assert pair.tokens[:2] == plain[:2]
        assert plain[2] != pair.tokens[2]

    def test_logprobs_are_of_the_raw_logits(self, subject: Subject) -> None:
        prompt = subject.prompt(14, 10)
        for wanted, sampling in ((0, GREEDY), (3, replace(SAMPLED, temperature=1.7, seed=4))):
            request = subject.request(prompt, 8, logprobs=wanted, sampling=sampling)
            (answer,) = subject.answer(request)
            assert len(answer.logprobs) == len(answer.tokens) == 8
            fed = list(prompt)
            for token, logprob in zip(answer.tokens, answer.logprobs, strict=True):
                logits = subject.logits(fed)
                values = logits - logits.max()
                values = values - np.log(np.exp(values).sum())
                assert logprob.logprob == pytest.approx(values[token], abs=subject.logprob_error)
                assert len(logprob.top) == wanted
                given = [value for _, value in logprob.top]
                assert given == sorted(given, reverse=True)
                own = [values[one] for one, _ in logprob.top]
                assert given == pytest.approx(own, abs=subject.logprob_error)
                best = np.sort(values)[::-1][:wanted]
                assert own == pytest.approx(best.tolist(), abs=2 * subject.logprob_error)
                fed.append(token)

    def test_a_guide_holds(self, subject: Subject) -> None:
        raise NotImplementedError("each subclass knows what its guides match")

    def refused(self, subject: Subject, name: str, **more: Any) -> None:
        """The whole request is, by name; and nothing of it stays."""
        with pytest.raises(UnsupportedParameter, match=rf"^{name} is .*, the {subject.runtime} "):
            subject.engine.submit(subject.request(subject.prompt(4, 1), 5, **more))
        assert not subject.engine.has_work

    def test_the_batch_is_never_larger_and_those_that_wait_are_counted(
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
        stats = subject.engine.stats()
        return (stats.active_requests, stats.queued_requests, stats.kv_blocks_used) == (0, 0, 0)

    def test_kv_blocks_are_reported(self, subject: Subject) -> None:
        one = subject.request(subject.prompt(100, 1), 120)
        subject.engine.submit(one)
        most, answers = 0, dict[int, Answer]()
        while subject.engine.has_work:
            collect(subject.engine.step(), answers)
            most = max(most, subject.engine.stats().kv_blocks_used)
        assert most > 0
        assert subject.engine.stats().kv_blocks_total > 0

    def test_the_longest_request(self, subject: Subject) -> None:
        """A prompt of many chunks, up to the last token that fits."""
        length = subject.max_seq_len - 3
        (answer,) = subject.answer(subject.request(subject.prompt(length, 2), 3))
        assert (len(answer.tokens), answer.reason) == (3, "length")

    def test_of_those_that_wait_the_lowest_number_starts_first(self, subject: Subject) -> None:
        long = [
            subject.request(subject.prompt(3, key), 100) for key in range(subject.max_batch_size)
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
        made = {key: len(answer.tokens) for key, answer in answers.items()}
        while any(len(answers[key].tokens) < count + 4 for key, count in made.items()):
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
            if subject.exact:
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
