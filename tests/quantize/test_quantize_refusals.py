"""What quantize.py refuses: one sentence before anything expensive, and no files left."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from host.console import BuildError
from quantization.texts import TextOptions, encode
from quantize import Job, quantize
from safetensors.torch import load_file, save_file

from tests.support.paths import DEMO_CHECKPOINT
from tests.support.quantize_models import run

pytest_plugins = ("tests.support.quantize_fixtures",)

Edit = Callable[[Path], object]


def config(**changes: Any) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    def edit(folder: Path) -> None:
        stored = load_file(folder / "model.safetensors")
        change(stored)
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


UP = "model.layers.1.mlp.up_proj"
BAD_MODELS: dict[str, tuple[Edit, str]] = {
    "not a Llama": (config(model_type="qwen2"), r"model_type is 'qwen2', but must be 'llama'"),
    "not JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"config\.json is not valid JSON",
    ),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        r"config\.json does not exist",
    ),
    "quantized, says config.json": (
        config(quantization_config={"quant_method": "fp8"}),
        r"is quantized already \(quant_method 'fp8'\); give --model the BF16 model",
    ),
    "quantized, says hf_quant_config.json": (
        lambda folder: (folder / "hf_quant_config.json").write_text("{}"),
        r"is quantized already",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"has no tokenizer\.json; give --model the whole Hugging Face folder",
    ),
    "damaged tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text('{"model": {}}'),
        r"tokenizer\.json cannot be loaded",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"the shard .*model\.safetensors does not exist",
    ),
    "half a shard": (cut, r"model\.safetensors is truncated: .* ends 1 bytes after the file"),
    "float32": (
        tensors(lambda all_: all_.update({f"{UP}.weight": all_[f"{UP}.weight"].float()})),
        rf"{UP}\.weight is F32 \[128, 64\], but must be BF16 \[128, 64\]; give",
    ),
    "another shape": (
        config(intermediate_size=256),
        r"gate_proj\.weight is BF16 \[128, 64\], but must be BF16 \[256, 64\]; give",
    ),
    "a tensor is missing": (
        tensors(lambda all_: all_.pop("model.norm.weight")),
        r"lacks the tensor model\.norm\.weight",
    ),
    "a bias": (
        tensors(lambda all_: all_.update({f"{UP}.bias": torch.ones(1)})),
        rf"holds the tensor {UP}\.bias, which is not part of a plain Llama 3",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models(bf16: Path, texts: TextOptions, tmp_path: Path, name: str) -> None:
    break_it, expected = BAD_MODELS[name]
    model = shutil.copytree(bf16, tmp_path / "model")
    break_it(model)
    refused(Job(model, tmp_path / "out", texts, "cpu"), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def refused(job: Job, expected: str) -> None:
    with pytest.raises(BuildError, match=expected) as error:
        quantize(job)
    assert "\n" not in str(error.value)


def test_a_quantized_checkpoint_or_a_missing_folder(texts: TextOptions, tmp_path: Path) -> None:
    refused(Job(DEMO_CHECKPOINT, tmp_path / "out", texts), r"quant_method 'modelopt'")
    refused(Job(tmp_path / "none", tmp_path / "out", texts), r"none is not a folder; give --model")


def test_a_folder_of_something_else_is_left_alone(
    bf16: Path, texts: TextOptions, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(Job(bf16, tmp_path, texts), r"is not empty and holds no quantization_report\.json")
    refused(Job(bf16, tmp_path / "notes.txt", texts), r"notes\.txt is not a folder")
    refused(Job(bf16, bf16, texts), r"is not empty and holds no quantization_report\.json")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_too_little_disk(
    bf16: Path, texts: TextOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=60_000_000)
    monkeypatch.setattr("host.output_folder.shutil.disk_usage", lambda _: usage)
    refused(Job(bf16, tmp_path / "out", texts), r"out needs 0\.07 GB and .* has 0\.06 GB free")


def test_too_little_memory(
    bf16: Path, texts: TextOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantization.device.available_bytes", lambda: 100_000_000)
    expected = (
        r"on cpu needs \d\.\d GB of memory and this machine has 0\.1 GB free; free memory, or"
    )
    refused(Job(bf16, tmp_path / "out", texts, "cpu"), expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_no_gpu(bf16: Path, texts: TextOptions, tmp_path: Path) -> None:
    refused(Job(bf16, tmp_path / "out", texts, "cuda"), r"--device is cuda, .* sees no CUDA GPU")


def test_missing_extra(
    bf16: Path, texts: TextOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantize.EXTRA", ("json", "no_such_package"))
    refused(Job(bf16, tmp_path / "out", texts), r"no_such_package is missing; install the `quant")


def test_the_tokenizer_of_another_model(bf16: Path) -> None:
    with pytest.raises(BuildError, match=r"token ids must be 0 to 999 as .*, not 1792"):
        encode(bf16, ["Hello there."], 16, 1000)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--calib-samples", 0), "--calib-samples must be at least 1, not 0"),
        (("--calib-tokens", 1), "--calib-tokens must be at least 2, not 1"),
        (("--eval-samples", -1), "--eval-samples must be at least 1, not -1"),
        (("--calib-samples", 3), r".*bad\.jsonl:3 is not a JSON object with a \"text\""),
    ],
)
def test_the_command_says_one_line(
    bf16: Path, tmp_path: Path, option: tuple[str, int], expected: str
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "one"}\n{"text": "two"}\n{"word": "three"}\n')
    arguments = ("--model", bf16, "--output", tmp_path / "out", "--calib-data", bad)
    result = run("quantize.py", *arguments, *option)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(f"error: {expected}[^\n]*\n", result.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]
