"""TensorRT-LLM's runtime on a fake of the library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tensorrt_llm.fake_package import remove
from tests.fakes.tensorrt_llm.rig import Rig, Start, start


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Start]:
    """`started("1_2", ...)`: the runtime on a fake of that version of the library."""
    rigs: list[Rig] = []

    def make(version: str = "1_2", **settings: Any) -> Rig:
        rigs.append(start(tmp_path / "engine", version, **settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.engine.shutdown()
    remove()


@pytest.fixture
def loads_undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Removes the fake, and what a load changed of the environment, after the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    remove()
