"""What needs torch and modelopt: `make test-quantize` runs it in an environment of its own.

The quantizer is held against NVFP4's definition in plain numpy (NVIDIA's modelopt documents it in
`nvfp4_tensor.py`), the reference forward pass against transformers.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import BUILD, DEMO_CHECKPOINT
from nvfp4_reference import ReferenceLlama, load_checkpoint
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

CODES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float64)
FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gu", "up_proj": "gu"}
TEXTS = ["The capital of France is Paris.", "A pig says oink.", "2, 3, 4, 5, 6, 7."] * 4
Floats = npt.NDArray[np.floating[Any]]


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with the demo's tokenizer, saved by transformers in bfloat16."""
    folder = tmp_path_factory.mktemp("bf16")
    config = json.loads((DEMO_CHECKPOINT / "config.json").read_text())
    config.pop("quantization_config")
    config.update(num_hidden_layers=2, hidden_size=64, intermediate_size=128, head_dim=16)
    torch.manual_seed(3)
    model: Any = LlamaForCausalLM(LlamaConfig(**config))
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(DEMO_CHECKPOINT / name, folder)
    return folder


@pytest.fixture(scope="module")
def nvfp4(bf16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvfp4")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "calibration.jsonl").write_text(lines)
    run("quantize.py", "--model", bf16, "--calib-data", folder / "calibration.jsonl",
        "--output", folder / "out")  # fmt: skip
    return folder / "out"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BUILD / script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=BUILD)
    assert result.returncode == 0, result.stderr
    return result


def test_weights_are_nvfp4_by_definition(bf16: Path, nvfp4: Path) -> None:
    source = load_file(bf16 / "model.safetensors")
    stored = load_file(nvfp4 / "model.safetensors")
    names = [name for name in source if name.endswith("_proj.weight")]
    assert len(names) == 14
    largest: dict[str, float] = {}
    for name in names:
        largest_here = float(source[name].abs().max())
        largest[group(name)] = max(largest.get(group(name), 0.0), largest_here)
    for name in names:
        global_scale = np.float32(largest[group(name)] / (6 * 448))
        assert stored[f"{name}_scale_2"].item() == pytest.approx(float(global_scale), rel=1e-6)
        weights = source[name].float().numpy().astype(np.float64)
        blocks = weights.reshape(len(weights), -1, 16)
        amax = torch.from_numpy(np.abs(blocks).max(-1)).float()
        scale = amax / (6 * stored[f"{name}_scale_2"])  # in f32: halfway cases round as it does
        expected = scale.clamp(max=448).to(torch.float8_e4m3fn)
        assert torch.equal(stored[f"{name}_scale"].float(), expected.float())
        step = expected.double().numpy()[..., None] * stored[f"{name}_scale_2"].double().item()
        values = unpack(stored[name].numpy()).reshape(blocks.shape)
        error = np.abs(np.abs(values) - np.abs(blocks) / step)
        nearest = np.abs(CODES[:, None, None, None] - np.abs(blocks) / step).min(0)
        assert np.all(error <= nearest + 1e-6)
        assert np.all((values == 0) | (np.sign(values) == np.sign(blocks)))


def group(name: str) -> str:
    """The linears of one layer that read the same input share their global scale."""
    layer, kind = name.split(".")[2], name.split(".")[-2]
    return f"{layer}.{FUSED.get(kind, kind)}"


def unpack(packed: npt.NDArray[np.uint8]) -> Floats:
    """uint8 [out, in / 2] -> float64 [out, in]; the low nibble is the even column."""
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
    values: Floats = np.where(codes & 8, -1.0, 1.0) * CODES[codes & 7]
    return values


def test_the_source_config_is_kept(bf16: Path, nvfp4: Path) -> None:
    source = json.loads((bf16 / "config.json").read_text())
    written = json.loads((nvfp4 / "config.json").read_text())
    quantization = written.pop("quantization_config")
    assert written == source
    assert (quantization["quant_algo"], quantization["quant_method"]) == ("NVFP4", "modelopt")


def test_the_reference_forward_equals_transformers(nvfp4: Path) -> None:
    checkpoint = load_checkpoint(nvfp4)
    config = json.loads((nvfp4 / "config.json").read_text())
    config.pop("quantization_config")
    model: Any = LlamaForCausalLM(LlamaConfig(**{**config, "torch_dtype": "float32"}))
    state = load_file(nvfp4 / "model.safetensors")
    weights = {}
    for name in model.state_dict():
        value = state[name]
        if value.dtype == torch.uint8:
            scale = state[f"{name}_scale"].float().repeat_interleave(16, dim=1)
            values = torch.from_numpy(unpack(value.numpy())).float()
            value = values * scale * state[f"{name}_scale_2"]
        weights[name] = value.float()
    model.load_state_dict(weights)
    ids = [config["bos_token_id"], *range(100, 140)]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(ReferenceLlama(checkpoint).forward(ids), expected, atol=2e-4)


def test_the_quantized_model_compiles(nvfp4: Path, tmp_path: Path) -> None:
    run(
        "compile_engine.py",
        "--runtime",
        "replay",
        "--checkpoint",
        nvfp4,
        "--output",
        tmp_path / "e",
    )


@pytest.mark.parametrize(
    ("text", "words"), [("", "has no calibration text"), ("{}\n", ":1 is not a JSON object")]
)
def test_bad_calibration_is_named(bf16: Path, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    command = [sys.executable, "quantize.py", "--model", str(bf16), "--output", str(tmp_path / "o")]
    command += ["--calib-data", str(tmp_path / "bad.jsonl")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=BUILD)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "o").exists()


def test_the_whole_recipe_in_small(tmp_path: Path) -> None:
    """Every stage of make_demo_checkpoint.py, with too few steps to learn anything."""
    output = tmp_path / "demo"
    first = run("make_demo_checkpoint.py", "--output", output, "--steps", 2, "--per-kind", 1)
    assert "NVFP4 W4A4" in first.stdout
    again = run("make_demo_checkpoint.py", "--output", output, "--steps", 2, "--per-kind", 1)
    assert "tokenizer: training" not in again.stdout
    assert "train: 2 steps" not in again.stdout
