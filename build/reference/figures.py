"""How far served tokens are from a reference, in figures, and which figures are beyond tolerance.

Knows no server. Every position is compared in the reference's own context: the prompt and the
reference's tokens before it. Both sides score the served token, so an error is always about the
same token in the same context, even where the two would choose differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engines.profile import Tolerances

from reference.file import PromptReference

# With this lead in log-probability, f32 arithmetic in another order, which moves it by about 1e-6,
# chooses no other token.
SURE_MARGIN = 1e-3

ServedToken = tuple[int, float | None]  # token id, log-probability (None: not given)


@dataclass
class Figures:
    """The figures of one prompt, or of all."""

    positions: int = 0
    agreed: int = 0
    unsure: int = 0  # differ, where the reference's two best are within SURE_MARGIN
    differing: int = 0  # differ, where the reference is sure
    outside: int = 0  # served tokens that are not among the reference's likeliest
    errors: list[float] = field(default_factory=list)  # |served - reference| log-probability
    served: list[float] = field(default_factory=list)  # log-probabilities of the served tokens
    reference: list[float] = field(default_factory=list)  # of the same tokens

    @property
    def mean_error(self) -> float:
        """The mean error of the log-probabilities; NaN without any."""
        return sum(self.errors) / len(self.errors) if self.errors else math.nan

    @property
    def max_error(self) -> float:
        """The largest error of the log-probabilities; NaN without any."""
        return max(self.errors, default=math.nan)

    @property
    def perplexities(self) -> tuple[float, float]:
        """The perplexities (served, reference) of the served tokens; NaN without any."""
        return perplexity(self.served), perplexity(self.reference)

    @property
    def perplexity_ratio(self) -> float:
        """The greater of the two to the smaller: an engine too sure of itself is wrong as well."""
        served, reference = self.perplexities
        return max(served / reference, reference / served)


def perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean negative log-probability; NaN of none."""
    return math.exp(-sum(logprobs) / len(logprobs)) if logprobs else math.nan


def compare(prompt: PromptReference, served: Sequence[ServedToken]) -> Figures:
    """One served token for each of the reference's positions -> the prompt's figures."""
    figures = Figures(positions=len(served))
    for position, (token, logprob) in enumerate(served):
        top = dict(prompt.top[position])
        if token == prompt.tokens[position]:
            figures.agreed += 1
        elif prompt.margin(position) < SURE_MARGIN and token in top:
            figures.unsure += 1
        else:
            figures.differing += 1
        if token not in top:
            figures.outside += 1
        elif logprob is not None:
            figures.served.append(logprob)
            figures.reference.append(top[token])
            figures.errors.append(abs(logprob - top[token]))
    return figures


def total(parts: Iterable[Figures]) -> Figures:
    """The figures of all prompts together."""
    whole = Figures()
    for part in parts:
        for name in ("positions", "agreed", "unsure", "differing", "outside"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        for name in ("errors", "served", "reference"):
            getattr(whole, name).extend(getattr(part, name))
    return whole


def out_of_tolerance(figures: Figures, allowed: Tolerances, logprobs: bool) -> list[str]:
    """A sentence for each figure beyond tolerance; none for a verified model.

    Without `logprobs` only the tokens can be compared, and they must be the same.
    """
    found = []
    if (allowed.same_tokens or not logprobs) and figures.differing:
        found.append(
            f"{figures.differing} of {figures.positions} tokens differ where the reference is "
            "sure; none may"
        )
    if figures.outside:
        found.append(
            f"{figures.outside} of {figures.positions} tokens are not among the reference's "
            "likeliest; all must be"
        )
    if not logprobs:
        return found
    limits = (
        ("the mean log-probability error", figures.mean_error, allowed.max_logprob_error),
        ("the perplexity ratio", figures.perplexity_ratio, allowed.max_perplexity_ratio),
    )
    for name, value, limit in limits:
        if not value <= limit:  # true for NaN
            found.append(f"{name} must be at most {limit:.6g}, not {value:.6g}")
    return found
