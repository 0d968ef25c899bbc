"""The figures of served tokens against a reference that was changed by a known amount."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from engines.profile import Tolerances
from reference.figures import Figures, ServedToken, compare, out_of_tolerance, total
from reference.file import PromptReference, Reference, Top
from reference.prompts import is_dated
from reference.served_model import Generated, ServedModel, Text
from verify import NOT_COMPARED, SAME, check_text, served_tokens

EXACT = Tolerances(same_tokens=True, max_logprob_error=1e-4, max_perplexity_ratio=1.0001)
LOOSE = Tolerances(same_tokens=False, max_logprob_error=0.5, max_perplexity_ratio=1.1)
TOPS: list[Top] = [
    ((5, -0.1), (6, -2.5), (7, -5.0)),
    ((8, -0.7), (9, -0.7 - 1e-4), (5, -4.0)),  # unsure
    ((6, -0.3), (5, -1.5), (7, -3.0)),
]
PROMPT = PromptReference("one", None, "text", [1, 2], TOPS, "answer")
ANSWER: list[ServedToken] = [(5, -0.1), (8, -0.7), (6, -0.3)]


def changed(position: int, token: int, logprob: float) -> list[ServedToken]:
    return [(token, logprob) if at == position else one for at, one in enumerate(ANSWER)]


def test_the_reference_itself_is_exact() -> None:
    figures = compare(PROMPT, ANSWER)
    assert (figures.positions, figures.agreed, figures.differing) == (3, 3, 0)
    assert figures.mean_error == figures.max_error == 0
    assert figures.perplexities == pytest.approx((math.exp(1.1 / 3),) * 2)
    assert not out_of_tolerance(figures, EXACT, logprobs=True)


def test_a_shifted_log_probability() -> None:
    figures = compare(PROMPT, changed(0, 5, -0.4))
    assert figures.mean_error == pytest.approx(0.1)
    assert figures.max_error == pytest.approx(0.3)
    assert figures.perplexity_ratio == pytest.approx(math.exp(0.1))
    assert out_of_tolerance(figures, EXACT, logprobs=True) == [
        "the mean log-probability error must be at most 0.0001, not 0.1",
        "the perplexity ratio must be at most 1.0001, not 1.10517",
    ]
    (sentence,) = out_of_tolerance(figures, LOOSE, logprobs=True)
    assert sentence == "the perplexity ratio must be at most 1.1, not 1.10517"
    assert not out_of_tolerance(figures, replace(LOOSE, max_perplexity_ratio=1.2), logprobs=True)


def test_an_overconfident_engine_is_beyond_tolerance() -> None:
    surer = [(token, 0.0) for token, _ in ANSWER]
    figures = compare(PROMPT, surer)
    assert figures.perplexity_ratio == pytest.approx(math.exp(1.1 / 3))
    assert len(out_of_tolerance(figures, LOOSE, logprobs=True)) == 1


def test_a_diverged_token_is_scored_as_the_same_token() -> None:
    figures = compare(PROMPT, changed(2, 5, -1.4))
    assert (figures.agreed, figures.differing, figures.unsure) == (2, 1, 0)
    assert figures.max_error == pytest.approx(0.1)  # token 5 on both sides, not 5 against 6
    sentence, *_ = out_of_tolerance(figures, EXACT, logprobs=True)
    assert sentence == "1 of 3 tokens differ where the reference is sure; none may"
    assert not out_of_tolerance(figures, LOOSE, logprobs=True)


def test_where_the_reference_is_unsure_either_token_is_right() -> None:
    figures = compare(PROMPT, changed(1, 9, -0.7 - 1e-4))
    assert (figures.agreed, figures.differing, figures.unsure) == (2, 0, 1)
    assert not out_of_tolerance(figures, EXACT, logprobs=True)
    third = compare(PROMPT, changed(1, 3, -0.7))
    assert (third.differing, third.unsure) == (1, 0)


def test_a_token_outside_the_references_likeliest_is_wrong() -> None:
    figures = compare(PROMPT, changed(2, 400, -0.3))
    assert len(figures.errors) == 2
    (sentence,) = out_of_tolerance(figures, LOOSE, logprobs=True)
    assert sentence == "1 of 3 tokens are not among the reference's likeliest; all must be"


def test_without_log_probabilities_the_tokens_must_be_equal() -> None:
    same: list[ServedToken] = [(token, None) for token, _ in ANSWER]
    assert not out_of_tolerance(compare(PROMPT, same), LOOSE, logprobs=False)
    (sentence,) = out_of_tolerance(compare(PROMPT, [*same[:2], (5, None)]), LOOSE, logprobs=False)
    assert sentence == "1 of 3 tokens differ where the reference is sure; none may"


def test_nan_does_not_pass() -> None:
    assert len(out_of_tolerance(Figures(positions=1), LOOSE, logprobs=True)) == 2
    wrong = compare(PROMPT, changed(0, 5, math.nan))
    assert len(out_of_tolerance(wrong, LOOSE, logprobs=True)) == 2


def test_all_prompts_together() -> None:
    whole = total([compare(PROMPT, ANSWER), compare(PROMPT, changed(2, 5, -1.2))])
    assert (whole.positions, whole.agreed, whole.differing) == (6, 5, 1)
    assert whole.mean_error == pytest.approx(0.05)


class Scripted(ServedModel):
    """Chooses the reference's token except at some positions; records its requests."""

    def __init__(
        self, other: dict[int, int], text: str = "answer", finish_reason: str = "length"
    ) -> None:
        super().__init__("127.0.0.1", 1, 1, 1.0)
        self._other, self._text = other, Text(text, len(PROMPT.prompt_ids), finish_reason)
        self.asked: list[tuple[list[int], int]] = []
        self.texts: list[str | list[dict[str, str]]] = []

    def tokens(self, prompt_ids: Sequence[int], count: int, log_probs: bool) -> Generated:
        self.asked.append((list(prompt_ids), count))
        start = len(prompt_ids) - len(PROMPT.prompt_ids)
        tokens, strayed = list[int](), False
        for position in range(start, start + count):
            expected = PROMPT.tokens[position]
            tokens.append(499 if strayed else self._other.get(position, expected))
            strayed = strayed or tokens[-1] != expected
        return Generated(tokens, [-0.5] * count if log_probs else None, "length")

    def text(self, prompt: str | list[dict[str, str]], count: int) -> Text:
        self.texts.append(prompt)
        return self._text


def test_after_a_divergence_it_asks_again_after_the_references_tokens() -> None:
    model = Scripted({0: 6, 2: 7})
    served, own = served_tokens(model, PROMPT, True)
    assert [token for token, _ in served] == [6, 8, 7]
    assert own == [6, 499, 499]
    assert model.asked == [([1, 2], 3), ([1, 2, 5], 2)]


class Characters:
    """A tokenizer whose ids are characters."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, ids))


REFERENCE = Reference("c", "0" * 64, 500, [2], False, {}, [PROMPT])


def text_of(model: Scripted, answer: list[int], tokenizer: object = None) -> str:
    return check_text(model, REFERENCE, PROMPT, answer, tokenizer)


def test_text_is_the_decoding_of_the_tokens() -> None:
    own, other = PROMPT.tokens, [6, 499, 499]
    assert text_of(Scripted({}), own) == SAME
    assert text_of(Scripted({}, "other"), own) == "differs"
    assert text_of(Scripted({0: 6}, "\x06\u01f3\u01f3"), other, Characters()) == SAME
    assert text_of(Scripted({0: 6}), other, Characters()) == "differs"
    assert text_of(Scripted({0: 6}), other) == NOT_COMPARED


def test_the_engine_is_asked_once_more_before_its_text_is_called_wrong() -> None:
    model = Scripted({})
    assert text_of(model, [6, 499, 499], Characters()) == "differs"
    assert model.asked == [([1, 2], 3)]
    again = Scripted({}, "\x05\x08\x06")
    assert text_of(again, [6, 499, 499], Characters()) == SAME


def test_text_ends_before_an_end_token() -> None:
    ended = Scripted({}, "\x05", finish_reason="stop")
    assert text_of(ended, [5, 2, 6], Characters()) == SAME
    assert text_of(Scripted({}, "\x05"), [5, 2, 6], Characters()) == "differs"


def test_a_prompt_of_other_tokens_is_reported() -> None:
    longer = replace(PROMPT, prompt_ids=[1, 2, 3])
    assert check_text(Scripted({}), REFERENCE, longer, [], None) == "prompt has 2 tokens, not 3"


def test_a_chat_with_a_date_is_sent_as_rendered_then() -> None:
    chat = replace(PROMPT, messages=[{"role": "user", "content": "Hi"}])
    model = Scripted({})
    for dated in (False, True):
        reference = replace(REFERENCE, dated_template=dated)
        assert check_text(model, reference, chat, PROMPT.tokens, None) == SAME
    assert model.texts == [chat.messages, "text"]
    assert is_dated("{{ strftime_now('%d %b %Y') }}")
    assert not is_dated("{{ messages }}")
    assert not is_dated(None)
