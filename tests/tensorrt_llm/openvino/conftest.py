"""One small random checkpoint and its engine, which no test of this folder changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference.numpy_llama import ReferenceLlama

from tests.support.small_engines import build_engine, load_reference, write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the shape "tiny"."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def folder(checkpoint: Path) -> Path:
    """The folder of its engine, in f32."""
    return build_engine(checkpoint, checkpoint.parent / "engine")


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> ReferenceLlama:
    """Its independent forward pass, in numpy."""
    return load_reference(checkpoint)
