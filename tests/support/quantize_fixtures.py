"""A random BF16 Llama and its NVFP4 version by quantize.py: a pytest plugin."""

from __future__ import annotations

from pathlib import Path

import pytest
from quantization.report import Report
from quantization.texts import TextOptions
from quantize import Job, quantize

from tests.support.quantize_models import HELD_OUT, TEXTS, TOKENS, write_model, write_texts


@pytest.fixture(scope="session")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with the demo's tokenizer, saved by transformers in bfloat16."""
    return write_model(tmp_path_factory.mktemp("bf16") / "model")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> TextOptions:
    """Options that calibrate on all of TEXTS."""
    path = write_texts(tmp_path_factory.mktemp("texts") / "text.jsonl", [*TEXTS, *HELD_OUT])
    return TextOptions(path, calib_samples=len(TEXTS), calib_tokens=TOKENS)


@pytest.fixture(scope="session")
def quantized(
    bf16: Path, texts: TextOptions, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report]:
    """The NVFP4 folder, which tests must not change, and its report."""
    output = tmp_path_factory.mktemp("nvfp4") / "out"
    return output, quantize(Job(bf16, output, texts, "cpu"))


@pytest.fixture(scope="session")
def nvfp4(quantized: tuple[Path, Report]) -> Path:
    return quantized[0]
