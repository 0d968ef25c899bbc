"""Every stage of demo/make.py, with too few steps to learn anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo import evaluate, make

pytest_plugins = ("tests.support.quantize_fixtures",)


def test_the_whole_recipe_in_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "MAX_NEW_TOKENS", 20)  # an untrained model does not end
    monkeypatch.setattr(evaluate, "MAX_SHORT_TOKENS", 10)
    monkeypatch.setattr(evaluate, "PERPLEXITY_ROWS", 2)
    output, work = tmp_path / "demo", tmp_path / "work"
    make.make(output, work, "cpu", steps=2, per_kind=1)
    first = capsys.readouterr().out
    assert "train: step 4/4" in first
    assert "evaluate: NVFP4 W4A4" in first
    monkeypatch.setattr(make, "_evaluate", lambda *_: None)
    make.make(output, work, "cpu", steps=2, per_kind=1)
    again = capsys.readouterr().out
    assert "tokenizer: training" not in again
    assert "train: 4 steps" not in again
    assert "is up to date" in again
