"""A quantization's report, against plain numpy and transformers."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantization.report import REPORT, Report, error_table, lines_of, relative_rms
from quantization.texts import TextOptions
from quantization.torch_checkpoint import quantize_activation
from quantize import Job, quantize
from reference.numpy_llama import load_checkpoint
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.support.quantize_models import CODES, HELD_OUT, TOKENS, Floats, write_texts

pytest_plugins = ("tests.support.quantize_fixtures",)

Quantized = tuple[Path, Report]


def test_weight_errors_are_those_of_plain_numpy(bf16: Path, quantized: Quantized) -> None:
    folder, report = quantized
    before, after = load_checkpoint(bf16).weights, load_checkpoint(folder).weights
    errors, totals = [], []
    for each in report.weight_errors:
        name = f"model.layers.{each.layer}.{each.linear}.weight"
        wanted = before[name].astype(np.float64)
        error = ((after[name] - wanted) ** 2).sum()
        assert relative_rms([each]) == pytest.approx((error / (wanted**2).sum()) ** 0.5, rel=1e-5)
        errors.append(error)
        totals.append((wanted**2).sum())
    assert len(errors) == 14
    overall = (sum(errors) / sum(totals)) ** 0.5
    assert relative_rms(report.weight_errors) == pytest.approx(overall, rel=1e-5)
    assert 0.08 < overall < 0.11  # of Gaussian weights


def test_each_layer_has_a_line_in_the_table(quantized: Quantized) -> None:
    _, report = quantized
    heading, first, second = error_table(report.weight_errors)
    assert heading.split() == ["layer", "q", "k", "v", "o", "gate", "up", "down", "all"]
    of_layer = [each for each in report.weight_errors if each.layer == 1]
    values = [relative_rms([each]) for each in of_layer] + [relative_rms(of_layer)]
    assert second.split() == ["1", *(f"{value:.4f}" for value in values)]
    assert first.split()[0] == "0"
    assert f"perplexity of {report.tokens:,} tokens of 15 held-out texts" in "\n".join(
        lines_of(report)
    )


@pytest.mark.parametrize("variant", ["BF16", "NVFP4 W4A16", "NVFP4 W4A4"])
def test_perplexity_is_that_of_transformers(bf16: Path, quantized: Quantized, variant: str) -> None:
    """One text at a time with all logits; weights dequantized and activations rounded in numpy."""
    folder, report = quantized
    checkpoint = load_checkpoint(bf16 if variant == "BF16" else folder)
    config = json.loads((bf16 / "config.json").read_text())
    factory: Any = LlamaForCausalLM
    model = factory(LlamaConfig(**{**config, "torch_dtype": "float32"})).eval()
    weights = {name: torch.from_numpy(value) for name, value in checkpoint.weights.items()}
    model.load_state_dict({name: value.clone() for name, value in weights.items()})
    if variant == "NVFP4 W4A4":
        for name, scale in checkpoint.input_scales.items():
            model.get_submodule(name).register_forward_pre_hook(rounding(scale))
    losses = [float(loss) for ids in held_out_ids(bf16) for loss in token_losses(model, ids)]
    assert len(losses) == report.tokens
    # f32 sums in another order; a rounded activation may fall to the other side of a tie.
    tolerance = 1e-2 if variant == "NVFP4 W4A4" else 1e-4
    expected = float(np.exp(np.mean(losses)))
    assert report.perplexity[variant] == pytest.approx(expected, rel=tolerance)
    others = [value for name, value in report.perplexity.items() if name != variant]
    assert all(abs(value / expected - 1) > 2 * tolerance for value in others)


def held_out_ids(folder: Path) -> Iterator[list[int]]:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    for text in HELD_OUT:
        ids = tokenizer.encode(text, add_special_tokens=False)
        yield [tokenizer.bos_token_id, *ids][:TOKENS]


def token_losses(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    return functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")


def rounding(input_scale: float) -> Any:
    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        values = nearest_codes(inputs[0].numpy().astype(np.float64), input_scale)
        return (torch.from_numpy(values.astype(np.float32)),)

    return hook


def nearest_codes(x: Floats, input_scale: float) -> Floats:
    """NVFP4 by brute force: the nearest of all eight magnitudes, the even code of two."""
    blocks = x.reshape(*x.shape[:-1], -1, 16)
    amax = torch.from_numpy(np.abs(blocks).max(-1, keepdims=True)).float()
    scale = (amax / (6 * input_scale)).clamp(2.0**-9, 448).to(torch.float8_e4m3fn)
    step = scale.double().numpy() * np.float64(np.float32(input_scale))
    distance = np.abs(np.abs(blocks / step)[..., None] - CODES)
    distance += 1e-9 * (np.arange(8) % 2)
    rounded: Floats = np.sign(blocks) * CODES[distance.argmin(-1)] * step
    return rounded.reshape(x.shape)


def test_activations_are_rounded_to_the_nearest_code_and_ties_to_the_even_one() -> None:
    # A block with a 6 has the scale 1: its values are the codes' own.
    block = np.array([6, *CODES, *(CODES[1:] + CODES[:-1]) / 2])
    x = np.stack([block, -block, np.linspace(-6, 6, 16)])
    rounded = quantize_activation(torch.from_numpy(x).float(), 1.0).double().numpy()
    np.testing.assert_array_equal(np.abs(rounded), np.abs(nearest_codes(x, 1.0)))
    random = np.random.default_rng(1).normal(size=(50, 64)) * 3
    rounded = quantize_activation(torch.from_numpy(random).float(), 1e-3).double().numpy()
    np.testing.assert_allclose(rounded, nearest_codes(random, 1e-3), rtol=1e-6)


@pytest.fixture
def copy(quantized: Quantized, tmp_path: Path) -> Path:
    """A copy of the folder with the same mtimes."""
    return shutil.copytree(quantized[0], tmp_path / "out")


def test_an_up_to_date_result_is_left_alone(
    bf16: Path, texts: TextOptions, quantized: Quantized, copy: Path, capsys: Any
) -> None:
    before = {path: path.stat().st_ino for path in copy.iterdir()}
    assert quantize(Job(bf16, copy, texts, "cpu")) == quantized[1]
    said = capsys.readouterr().out
    assert "is up to date" in said
    assert "NVFP4 W4A4" in said
    assert {path: path.stat().st_ino for path in copy.iterdir()} == before


@pytest.mark.parametrize("what", ["texts", "count", "weights", "report"])
def test_what_has_changed_is_made_again(
    bf16: Path, texts: TextOptions, copy: Path, what: str, tmp_path: Path
) -> None:
    before = copy.stat().st_ino
    if what == "texts":
        assert texts.calib_data is not None
        other = tmp_path / "other.jsonl"
        other.write_text(texts.calib_data.read_text().replace("Peru", "Chad"))
        texts = dataclasses.replace(texts, calib_data=other)
    elif what == "count":
        texts = dataclasses.replace(texts, calib_samples=3)
    elif what == "weights":
        os.utime(copy / "model.safetensors")
    else:
        (copy / REPORT).write_text('{"files": 1')
    quantize(Job(bf16, copy, texts, "cpu"))
    assert copy.stat().st_ino != before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["out"]


def test_evaluation_texts_of_their_own(bf16: Path, texts: TextOptions, tmp_path: Path) -> None:
    other = write_texts(tmp_path / "eval.jsonl", HELD_OUT[:4])
    options = dataclasses.replace(texts, eval_data=other, eval_samples=2)
    report = quantize(Job(bf16, tmp_path / "out", options, "cpu"))
    counts = [len(ids) - 1 for ids in held_out_ids(bf16)]
    assert (report.texts, report.tokens) == (2, sum(counts[:2]))
