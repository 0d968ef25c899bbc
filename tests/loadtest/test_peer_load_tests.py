"""What is read out of other load tests' files: figures of the steady part of a closed loop."""

from __future__ import annotations

import pytest
from host.console import BuildError

from tests.benchmarks.peer_load_tests import Answered, Load, _figures

LOAD = Load(users=2, tokens=10, seconds=20, warmup_s=5, prompt="Hi")


def answered(sent: float, gap: float, tokens: int = 10) -> Answered:
    return Answered(sent, [(sent + gap * (number + 1), 1) for number in range(tokens)])


def test_only_the_steady_part_is_counted() -> None:
    """Two users, ten tokens in a second each; the first answers are slow, the last was cut."""
    slow = [answered(at, 0.4) for at in (0.0, 0.1)]
    steady = [answered(at + late, 0.1) for at in range(5, 15) for late in (0.001, 0.101)]
    cut = [answered(15.001, 0.1, tokens=4)]
    figures = _figures([*slow, *steady, *cut], LOAD, cpu_s=1.1)
    assert figures.itl_s == pytest.approx(0.1)
    assert figures.e2e_s == pytest.approx(1.0)
    assert figures.tokens_per_s == pytest.approx(20, rel=0.02)
    assert figures.cpu_s == pytest.approx(5.0), "of all whole answers, the slow ones too"


def test_too_few_answers_give_no_figures() -> None:
    with pytest.raises(BuildError, match="1 whole answers came, expected 4 at least"):
        _figures([answered(0.0, 0.1), answered(6.0, 0.1)], LOAD, cpu_s=1.0)
