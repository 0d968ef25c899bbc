"""The bytes that quantize.py writes, against NVFP4's definition in plain numpy (modelopt documents
it in `nvfp4_tensor.py`) and against what transformers computes with the BF16 weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.check import check_content
from host.console import BuildError
from quantization.texts import TextOptions
from quantize import Job, quantize
from reference.numpy_llama import ReferenceLlama, load_checkpoint
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.support.quantize_models import CODES, TEXTS, TOKENS, run, unpack, write_model

pytest_plugins = ("tests.support.quantize_fixtures",)

FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gu", "up_proj": "gu"}


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
    """The linears of one layer that read the same input share their scales."""
    layer, kind = name.split(".")[2], name.split(".")[-2]
    return f"{layer}.{FUSED.get(kind, kind)}"


def test_scales_come_from_the_activations_of_the_texts(bf16: Path, nvfp4: Path) -> None:
    """From the first TOKENS tokens of every text, each alone after a begin-of-text token."""
    seen = largest_activations(bf16)
    stored = load_file(nvfp4 / "model.safetensors")
    for name in [name for name in stored if name.endswith("input_scale")]:
        linear = name.removesuffix(".input_scale")
        amax = max(seen[other][0] for other in seen if group(f"{other}.w") == group(f"{linear}.w"))
        assert stored[name].item() == pytest.approx(amax / (6 * 448), rel=1e-6)
    for layer in range(2):
        for kind in "kv":
            linear = f"model.layers.{layer}.self_attn.{kind}_proj"
            scale = stored[f"{linear}.{kind}_scale"].item()
            assert scale == pytest.approx(seen[linear][1] / 448, rel=1e-6)


def largest_activations(bf16: Path) -> dict[str, tuple[float, float]]:
    """Linear -> largest absolute value of its inputs and of its outputs, by transformers."""
    factory: Any = LlamaForCausalLM
    model = factory.from_pretrained(bf16, dtype=torch.bfloat16)
    seen: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            here = float(inputs[0].abs().max()), float(output.abs().max())
            before = seen.get(name, (0.0, 0.0))
            seen[name] = max(here[0], before[0]), max(here[1], before[1])

        return hook

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_hook(watch(name))
    tokenizer: Any = AutoTokenizer.from_pretrained(bf16)
    for text in TEXTS:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)][:TOKENS]
        with torch.no_grad():
            model(torch.tensor([ids]))
    return seen


def test_the_sources_config_and_files_are_kept(bf16: Path, nvfp4: Path) -> None:
    source = json.loads((bf16 / "config.json").read_text())
    written = json.loads((nvfp4 / "config.json").read_text())
    quantization = written.pop("quantization_config")
    assert written == source
    assert (quantization["quant_algo"], quantization["quant_method"]) == ("NVFP4", "modelopt")
    facts = json.loads((nvfp4 / "hf_quant_config.json").read_text())["quantization"]
    assert (facts["quant_algo"], facts["kv_cache_quant_algo"]) == ("NVFP4", "FP8")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        assert (nvfp4 / name).read_bytes() == (bf16 / name).read_bytes()


@pytest.mark.parametrize("convention", ["0.47: amax / 448", "0.35: at least 1.0"])
def test_both_conventions_of_the_kv_scales_are_read(
    nvfp4: Path, tmp_path: Path, convention: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in nvfp4.iterdir():
        (tmp_path / path.name).symlink_to(path)
    tensors = load_file(nvfp4 / "model.safetensors")
    scales = [name for name in tensors if name.endswith((".k_scale", ".v_scale"))]
    assert len(scales) == 4
    assert all(0 < tensors[name].item() < 1 for name in scales)
    if convention.startswith("0.35"):
        tensors |= {name: tensors[name].clamp(min=1.0) for name in scales}
    (tmp_path / "model.safetensors").unlink()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    summary = check_content(tmp_path)
    assert ("scales of the KV cache 1 to 1" in summary) == convention.startswith("0.35")
    assert "warning" not in capsys.readouterr().out


def test_the_other_spelling_of_the_rotary_embedding_is_the_same_model(
    nvfp4: Path, texts: TextOptions, tmp_path: Path
) -> None:
    """transformers 5 writes `rope_parameters`; the scales of the inputs depend on them."""
    folder = write_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_theta": config.pop("rope_theta"), **config.pop("rope_scaling")}
    config["rope_parameters"] = rope
    (folder / "config.json").write_text(json.dumps(config))
    quantize(Job(folder, tmp_path / "out", texts, "cpu"))
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert weights == (nvfp4 / "model.safetensors").read_bytes()
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_parameters"] == rope
    assert "rope_theta" not in written


def test_tied_embeddings(texts: TextOptions, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    report = quantize(Job(folder, tmp_path / "out", texts, "cpu"))
    assert len(report.weight_errors) == 14
    assert "66 tensors" in check_content(tmp_path / "out")


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
    np.testing.assert_allclose(ReferenceLlama(checkpoint).forward(ids), expected, atol=1e-3)


def test_the_quantized_model_compiles(nvfp4: Path, tmp_path: Path) -> None:
    script = ("compile_engine.py", "--runtime", "replay", "--checkpoint", nvfp4)
    result = run(*script, "--output", tmp_path / "engine")
    assert result.returncode == 0, result.stderr


def test_values_of_an_untrained_model_are_refused(
    bf16: Path, texts: TextOptions, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    for value, word in ((float("nan"), "nan"), (float("inf"), "inf")):
        tensors[name][3, 5] = value
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            BuildError, match=rf"the largest value of {name} must be a .*, not {word}"
        ):
            quantize(Job(folder, tmp_path / "out", texts, "cpu"))
        assert not (tmp_path / "out").exists()
