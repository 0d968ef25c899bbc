"""What every runtime that samples promises; a subclass brings the `subject` fixture.

The truth is the subject's own logits and the plain formulas of `token_engine/interface.py`. Where a
runtime computes in BF16, its greedy token must be the best one if that leads by `margin`, else one
of those as near; its draws are compared only with each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from token_engine.interface import SamplingParams, TokenDelta

from tests.support.engine_answers import Floats
from tests.support.runtime_streams import StreamSuite
from tests.support.runtime_subject import GREEDY as GREEDY
from tests.support.runtime_subject import SAMPLED as SAMPLED
from tests.support.runtime_subject import Subject as Subject
from tests.support.runtime_subject import differ, distribution, occurrence, repetition


class RuntimeSuite(StreamSuite):
    """Collected in the subclasses."""

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
        if not subject.has("embedding_bias"):
            return  # such a runtime has a test of its own, on a checkpoint that ends with any token
        bias = tuple((token, 1000.0) for token in subject.eos[:1])
        wants = subject.request(subject.prompt(9, 4), 8, token_bias=bias)
        (answer,) = subject.answer(wants)
        assert (answer.tokens, answer.reason) == ([subject.eos[0]] * 8, "length")
        ends = replace(self.again(subject, wants), end_ids=subject.eos)
        (answer,) = subject.answer(ends)
        assert (answer.tokens, answer.reason) == ([], "stop")

    def test_no_end_id_before_min_tokens(self, subject: Subject) -> None:
        """Until then all end ids are banned, and nothing else; then the first one ends it."""
        prompt = subject.prompt(12, 5)
        (plain,) = subject.answer(subject.request(prompt, 12))
        ends = tuple(sorted({*plain.tokens, *subject.eos}))
        for least in (0, 1, 2, 5, 11, 20):

            def banned(logits: Floats, output: list[int], least: int = least) -> Floats:
                if len(output) < least:
                    logits[list(ends)] = -np.inf
                return logits

            (answer,) = subject.answer(subject.request(prompt, 20, end_ids=ends, min_tokens=least))
            assert len(answer.tokens) >= least
            assert not {*answer.tokens} & {*ends}
            expected = subject.sure(prompt, 20, banned, answer=answer.tokens)
            place = next((i for i, token in enumerate(expected) if token in ends), None)
            if place is None:
                assert answer.tokens[: len(expected)] == expected
            else:
                assert (answer.tokens, answer.reason) == (expected[:place], "stop")
        (without,) = subject.answer(subject.request(prompt, 12, min_tokens=12))
        sure = subject.sure(prompt, 12, answer=without.tokens)
        assert without.tokens[: len(sure)] == sure

    def test_seeds_over_the_whole_range(self, subject: Subject) -> None:
        if not subject.seeds:
            self.refused(subject, "seed", sampling=replace(SAMPLED, seed=7))
            return
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
        # Torch's generator on a CPU uses only a seed's lower 32 bits.
        different = len({tuple(answer.tokens) for answer in rounds[0]})
        assert different == len(seeds) if subject.exact else different >= 4

    def test_without_a_seed_no_two_requests_draw_alike(self, subject: Subject) -> None:
        """Libraries have a fixed seed by default."""
        prompt, hot = subject.prompt(10, 6), replace(SAMPLED, temperature=2.0)
        asked = [subject.request(prompt, 16, sampling=hot) for _ in range(4)]
        answers = [
            *subject.answer(*asked[:2]),
            *subject.answer(asked[2]),
            *subject.answer(asked[3]),
        ]
        assert len({tuple(answer.tokens) for answer in answers}) == 4

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
        if sampling.min_p and not subject.has("min_p"):
            self.refused(subject, "min_p", sampling=sampling)
            return
        # Its best token must lead by the arithmetic's error, which a low temperature magnifies.
        prompt = next(
            prompt
            for prompt in (subject.prompt(15, seed) for seed in itertools.count(8))
            if np.ptp(np.sort(subject.logits(prompt))[-2:]) > subject.margin
        )
        expected = distribution(
            subject.logits(prompt).copy(), sampling, subject.min_p_first, subject.top_p_of_all
        )
        answers = subject.answer(
            *(
                subject.request(prompt, 1, sampling=replace(sampling, seed=subject.seed(seed)))
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
        # Otherwise the test showed nothing.
        assert of_prompt + of_output or (penalty > 1 and not subject.repeats_itself)

    @pytest.mark.parametrize(("presence", "frequency"), [(1.5, 0), (0, 1.0), (-2, 0), (-0.5, 1.5)])
    def test_penalties_follow_openais_formula(
        self, subject: Subject, presence: float, frequency: float
    ) -> None:
        """Greedy, and at a temperature near 0: penalties act before the division by it."""
        if not subject.has("presence_penalty"):
            name = "presence_penalty" if presence else "frequency_penalty"
            sampling = replace(GREEDY, presence_penalty=presence, frequency_penalty=frequency)
            self.refused(subject, name, sampling=sampling)
            return
        shown = 0
        for seed, sampling in enumerate((GREEDY, GREEDY, replace(SAMPLED, temperature=0.02)) * 2):
            chosen = replace(sampling, presence_penalty=presence, frequency_penalty=frequency)
            prompt = subject.prompt(25, seed)
            few: tuple[tuple[int, float], ...] = ()
            if seed >= 3 and subject.has("embedding_bias"):
                # Towards three tokens, for a model that repeats none of its own accord.
                few = tuple((token, 40.0) for token in subject.likely(prompt, 3))
            asked = subject.request(prompt, 24, sampling=chosen, token_bias=few)
            (answer,) = subject.answer(asked)
            expected = subject.sure(
                prompt,
                24,
                partial(occurrence, presence, frequency, few),
                0 if sampling.greedy else 0.6,  # thirty temperatures: no draw goes the other way
                answer.tokens if sampling.greedy else (),
            )
            assert answer.tokens[: len(expected)] == expected
            plain = partial(occurrence, 0, 0, few)
            shown += differ(subject.sure(prompt, 24, plain, answer=answer.tokens), expected)
        assert shown

    def test_token_bias(self, subject: Subject) -> None:
        prompt = subject.prompt(18, 9)
        if not subject.has("embedding_bias"):
            self.refused(subject, "embedding_bias", token_bias=((5, 1.0),))
            return
        (answer,) = subject.answer(subject.request(prompt, 10))
        plain = subject.sure(prompt, 10, answer=answer.tokens)
        bias = (
            (plain[0], -1000.0),
            (next(iter({5, 6, 7} - {*plain})), 0.25),
            (subject.vocab_size - 1, -1.0),
        )

        def biased(logits: Floats, _: list[int]) -> Floats:
            for token, value in bias:
                logits[token] += value
            return logits

        (answer,) = subject.answer(subject.request(prompt, 10, token_bias=bias))
        expected = subject.sure(prompt, 10, biased, answer=answer.tokens)
        assert answer.tokens[: len(expected)] == expected

    def test_bad_words(self, subject: Subject) -> None:
        prompt = subject.prompt(18, 9)
        (answer,) = subject.answer(subject.request(prompt, 10))
        plain = subject.sure(prompt, 10, answer=answer.tokens)
        assert len(plain) >= 3
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
        if not subject.has("logprobs"):
            self.refused(subject, "return_log_probs", logprobs=0)
            return
        several = 3 if subject.has("top_logprobs") else 0
        if not several:
            self.refused(subject, "logprobs", logprobs=3)
        drawn = GREEDY
        if subject.drawn_logprobs:
            drawn = replace(SAMPLED, temperature=subject.drawn_logprobs, seed=subject.seed(4))
        for wanted, sampling in ((0, GREEDY), (several, drawn)):
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
