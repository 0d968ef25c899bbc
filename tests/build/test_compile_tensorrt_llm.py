"""The compile step of TensorRT-LLM, with the fake library and a fake `nvidia-smi`.

The engine's first run is real but for the library: a process of its own, as the server starts it.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compile_engine import compile_engine, parse_arguments
from engine_config import EngineConfig, load_engine_config
from engines.profile import profile_names
from host.console import BuildError

from tests.support.gpu_machine import (
    B200,
    H100,
    RTX5090,
    SMALL,
    add_distribution,
    capability,
    show_gpus,
)
from tests.support.paths import DEMO_CHECKPOINT, FAKES
from tests.support.small_engines import write_checkpoint

SITE = FAKES / "tensorrt_llm" / "site"
Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Say which GPUs nvidia-smi shows, and which TensorRT-LLM is installed."""

    def fake_machine(*gpus: str, version: str = "1.2.1", fake: str = "1_2") -> None:
        show_gpus(tmp_path / "machine", monkeypatch, *gpus)
        if version:
            add_distribution(tmp_path / "machine", "tensorrt_llm", version)
        monkeypatch.syspath_prepend(tmp_path / "machine")
        monkeypatch.setenv("PYTHONPATH", str(SITE))
        settings: dict[str, object] = {"version": fake, "gpus": len(gpus)}
        if gpus:
            settings["compute_capability"] = capability(gpus[0])
        monkeypatch.setenv("TENSORRT_LLM_FAKE", json.dumps(settings))

    return fake_machine


def build(folder: Path, *arguments: str, checkpoint: Path | None = None) -> EngineConfig:
    source = checkpoint or write_checkpoint(folder / "checkpoint")
    common = ["--checkpoint", str(source), "--output", str(folder / "engine")]
    compile_engine(parse_arguments(["--runtime", "tensorrt_llm", *common, *arguments]))
    return load_engine_config(folder / "engine")


def test_the_checkpoint_itself_is_the_engine_and_was_run_once(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(B200)
    config = build(tmp_path, "--max-batch-size", "8")
    engine, checkpoint = tmp_path / "engine", tmp_path / "checkpoint"
    for name in ("model.safetensors", "hf_quant_config.json", "config.json", "tokenizer.json"):
        assert (engine / name).read_bytes() == (checkpoint / name).read_bytes(), name
    assert os.path.samefile(engine / "model.safetensors", checkpoint / "model.safetensors")
    assert config.built_with["tensorrt_llm"] == "1.2.1"
    assert config.built_with["gpu"] == "NVIDIA B200"
    assert config.built_with["compute_capability"] == "10.0"
    assert config.runtime_options["backend"] == "pytorch"
    assert config.runtime_options["cuda_graph_config"]["max_batch_size"] == 8
    # The tiny model allows no more than 4,096 tokens; the rest follows from 179 GiB.
    assert (config.limits.max_seq_len, config.limits.max_num_tokens) == (4096, 8192)
    said = capsys.readouterr().out
    assert "KV cache of " in said
    assert "max_batch_size 8: as stated (this memory alone would give 256)" in said
    assert "first run: 8 sequences at once, 256 tokens" in said


def test_a_second_run_leaves_it_alone(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(B200)
    build(tmp_path)
    capsys.readouterr()
    build(tmp_path, checkpoint=tmp_path / "checkpoint")
    assert capsys.readouterr().out == f"{tmp_path / 'engine'} is up to date\n"


@pytest.mark.parametrize(("version", "fake"), [("1.0.0", "1_0"), ("1.2.1", "1_2")])
def test_a_tensorrt_engine_is_built_saved_and_run(
    tmp_path: Path, machine: Machine, version: str, fake: str
) -> None:
    machine(RTX5090, version=version, fake=fake)
    config = build(tmp_path, "--backend", "tensorrt", "--max-batch-size", "4")
    assert config.runtime_options["model_directory"] == "tensorrt_engine"
    engine = tmp_path / "engine"
    assert (engine / "tensorrt_engine" / "rank0.engine").is_file()
    assert not (engine / "model.safetensors").exists()
    built = json.loads((engine / "tensorrt_engine" / "config.json").read_text())["build_config"]
    limits = config.limits
    assert (built["max_batch_size"], built["max_seq_len"]) == (4, limits.max_seq_len)
    assert (built["max_num_tokens"], built["max_input_len"]) == (8192, limits.max_seq_len)
    assert built["max_beam_width"] == 1


def test_the_interpreter_that_has_the_library_builds_it_too(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(RTX5090, version="")
    add_distribution(tmp_path / "packages", "tensorrt_llm", "1.2.1")
    monkeypatch.delenv("PYTHONPATH")  # this one has no such library
    python = tmp_path / "python-with-the-library"
    packages = shlex.quote(f"{SITE}:{tmp_path / 'packages'}")
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    arguments = ("--max-batch-size", "4", "--engine-python", str(python))
    config = build(tmp_path, "--backend", "tensorrt", *arguments)
    assert config.engine_python == str(python)
    assert (tmp_path / "engine" / "tensorrt_engine" / "rank0.engine").is_file()


@pytest.mark.parametrize("version", ["1.3.0rc19", "1.4.0"])
def test_newer_versions_build_no_tensorrt_engine(
    tmp_path: Path, machine: Machine, version: str
) -> None:
    machine(B200, version=version, fake="head")
    with pytest.raises(BuildError, match=rf"TensorRT-LLM {version} builds and runs no TensorRT"):
        build(tmp_path, "--backend", "tensorrt")
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("gpus", "version", "arguments", "words"),
    [
        (
            (),
            "1.2.1",
            (),
            "needs the FP4 tensor cores of Blackwell .*, and this machine has no NVIDIA GPU",
        ),
        ((H100,), "1.2.1", (), r"NVIDIA H100 80GB HBM3 \(sm90\); choose by the table"),
        ((SMALL,), "1.2.1", (), r"GPU of 2\.0 GiB is too small: weights"),
        ((B200,), "", (), r"tensorrt_llm is not installed; use the image nvcr\.io"),
        ((B200,), "0.21.0", (), r"tensorrt_llm must be 1\.0 or later, not 0\.21\.0"),
        ((B200,), "1.2.1", ("--max-seq-len", "9000"), "--max-seq-len must be at most .* not 9000"),
    ],
)
def test_an_unfit_machine_or_option_is_refused_before_anything_is_written(
    tmp_path: Path,
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    gpus: tuple[str, ...],
    version: str,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    machine(*gpus, version=version)
    with pytest.raises(BuildError, match=words) as caught:
        build(tmp_path, *arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "engine").exists()
    table = capsys.readouterr().err
    if "table" in words:
        assert "9.0                 H100, H200" in table
        assert "openvino" in table


PROFILE = """
description = "d"
model_name = "m"
runtime = "tensorrt_llm"
checkpoint.directory = "x"
"""


def profile(folder: Path, text: str) -> str:
    path = folder / "profile.toml"
    path.write_text(PROFILE + text)
    return str(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("attn_backend = 'flashinfer'", "attn_backend is 'flashinfer' and must be one of 'TRTLLM'"),
        ("tensor_parallel = 2", "unknown key 'tensor_parallel'; did you mean"),
        ("kv_cache_config.fraction = 0.5", "kv_cache_config has the unknown key 'fraction'"),
        ("tensor_parallel_size = 'two'", "tensor_parallel_size is 'two' and must be a JSON int"),
    ],
)
def test_a_mistake_in_a_profiles_options_is_named(tmp_path: Path, options: str, words: str) -> None:
    path = profile(tmp_path, f"[runtime_options]\n{options}\n")
    with pytest.raises(BuildError, match=words):
        parse_arguments(["--profile", path, "--output", "x"])


@pytest.mark.parametrize(
    ("gpus", "text", "words"),
    [
        ((B200,), "hardware.gpus = 2", "needs 2 GPUs and this machine shows 1"),
        (
            (B200, B200, B200),
            "runtime_options.tensor_parallel_size = 3",
            "must divide the model, 3 does not",
        ),
        ((RTX5090,), "hardware.compute_capabilities = ['10.0']", r"has compute capability 12\.0"),
        ((RTX5090,), "hardware.gpu_memory_gib = 96", "has 32 GiB of memory, the profile needs 96"),
        ((B200,), "runtime_options.attn_backend = 'FLASHINFER'", "flashinfer is not installed"),
    ],
)
def test_a_machine_the_profile_is_not_for_is_refused(
    tmp_path: Path, machine: Machine, gpus: tuple[str, ...], text: str, words: str
) -> None:
    machine(*gpus)
    with pytest.raises(BuildError, match=words):
        build(tmp_path, "--profile", profile(tmp_path, text))
    assert not (tmp_path / "engine").exists()


def test_the_model_cards_call(tmp_path: Path, machine: Machine) -> None:
    """LLM(model, tensor_parallel_size=1, attn_backend="FLASHINFER"), with flashinfer installed."""
    machine(B200)
    (tmp_path / "machine" / "flashinfer.py").write_text("")
    os.environ["PYTHONPATH"] += f":{tmp_path / 'machine'}"
    text = "[runtime_options]\nattn_backend = 'FLASHINFER'\ntensor_parallel_size = 1\n"
    config = build(tmp_path, "--profile", profile(tmp_path, text))
    assert config.runtime_options["attn_backend"] == "FLASHINFER"


def test_an_engine_that_does_not_run_is_no_engine(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(B200)
    dies = {"version": "1_2", "gpus": 1, "die_at_step": 1}
    monkeypatch.setenv("TENSORRT_LLM_FAKE", json.dumps(dies))
    with pytest.raises(BuildError, match="the engine does not run: "):
        build(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "machine"]


GPUS_OF = {"b200": [B200], "rtx": [RTX5090], "tp2": [B200, B200]}


@pytest.mark.parametrize("name", sorted(GPUS_OF))
def test_the_profiles_build(tmp_path: Path, machine: Machine, name: str) -> None:
    """On the hardware that they are for, with a small checkpoint of the 8B's layout."""
    assert f"llama-3.1-8b-{name}" in profile_names()
    machine(*GPUS_OF[name])
    arguments = ("--profile", f"llama-3.1-8b-{name}", "--max-batch-size", "4")
    config = build(tmp_path, *arguments, checkpoint=DEMO_CHECKPOINT)
    assert config.model.name == "llama-3.1-8b-instruct-fp4"
    assert config.runtime_options["attn_backend"] == "TRTLLM"
