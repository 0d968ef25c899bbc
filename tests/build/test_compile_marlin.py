"""The compile steps of vLLM and SGLang, with the fake libraries in an interpreter of their own and
a fake `nvidia-smi`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from compile_engine import compile_engine, parse_arguments
from engine_config import EngineConfig, load_engine_config
from engines.profile import profile_names
from host.console import BuildError

from tests.support.gpu_machine import B200, H200, T4, add_distribution, capability, show_gpus
from tests.support.paths import DEMO_CHECKPOINT, FAKES
from tests.with_gpu.run import profile_text

SITE = FAKES / "libraries" / "site"


RUNTIMES = {"vllm": ("0.32.0", "0_32"), "sglang": ("0.5.23", "0_5_23")}


def fake_machine(
    folder: Path,
    patch: pytest.MonkeyPatch,
    gpu: str,
    version: str | None = None,
    runtime: str = "vllm",
) -> Path:
    """A machine with that GPU; returns the interpreter that has the runtime's library."""
    version = RUNTIMES[runtime][0] if version is None else version
    show_gpus(folder / "machine", patch, *filter(None, [gpu]))
    packages = folder / "packages"
    if version:
        add_distribution(packages, runtime, version)
    python = folder / f"python-with-{runtime}"
    path = shlex.quote(f"{SITE}:{packages}")
    python.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    behaviour = {"capability": capability(gpu)} if gpu else {}
    settings = {"version": RUNTIMES[runtime][1], **behaviour}
    patch.setenv(f"{runtime.upper()}_FAKE", json.dumps(settings))
    return python


def build(folder: Path, python: Path, *arguments: str) -> EngineConfig:
    common = ["--checkpoint", str(DEMO_CHECKPOINT), "--output", str(folder / "engine")]
    common += ["--engine-python", str(python), "--max-batch-size", "4"]
    compile_engine(parse_arguments([*common, *arguments]))
    return load_engine_config(folder / "engine")


def test_the_h200s_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "llama-3.1-8b-h200-vllm" in profile_names()
    python = fake_machine(tmp_path, monkeypatch, H200)
    config = build(tmp_path, python, "--profile", "llama-3.1-8b-h200-vllm")
    assert (config.runtime, config.engine_python) == ("vllm", str(python))
    assert config.runtime_options["quantization"] == "modelopt_fp4"
    assert config.built_with["vllm"] == "0.32.0"
    assert config.built_with["compute_capability"] == "9.0"
    said = capsys.readouterr().out
    assert "NVIDIA H200 (sm90) has no FP4 tensor cores: the Marlin kernel" in said
    assert "first run: 4 sequences at once, 128 tokens" in said
    weights = tmp_path / "engine" / "model.safetensors"
    assert os.path.samefile(weights, DEMO_CHECKPOINT / "model.safetensors")


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_blackwell_needs_no_marlin(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runtime: str,
) -> None:
    python = fake_machine(tmp_path, monkeypatch, B200, runtime=runtime)
    config = build(tmp_path, python, "--runtime", runtime)
    assert config.runtime_options["quantization"] == "modelopt_fp4"
    assert config.built_with[runtime] == RUNTIMES[runtime][0]
    said = capsys.readouterr().out
    assert "Marlin" not in said
    assert "first run: 4 sequences at once, 128 tokens" in said


def test_sglang_on_hopper_keeps_positions_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = fake_machine(tmp_path, monkeypatch, H200, runtime="sglang")
    longest = json.loads((DEMO_CHECKPOINT / "config.json").read_text())["max_position_embeddings"]
    assert build(tmp_path, python, "--runtime", "sglang").limits.max_seq_len == longest - 7
    assert "Marlin" in capsys.readouterr().out
    with pytest.raises(BuildError, match=f"must be at most {longest - 7} with .* not {longest}"):
        build(tmp_path, python, "--runtime", "sglang", "--max-seq-len", str(longest))


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_the_engine_of_make_test_gpu_can_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    """A limit that is refused there would end `make test-gpu`, which compiles it first."""
    python = fake_machine(tmp_path, monkeypatch, H200, runtime=runtime)
    profile = tmp_path / "profile.toml"
    profile.write_text(profile_text(runtime, "demo", DEMO_CHECKPOINT, {}))
    options = build(tmp_path, python, "--profile", str(profile)).runtime_options
    assert options["kv_cache_dtype"] == ("auto" if runtime == "sglang" else "bfloat16")


def test_sglang_refuses_a_kv_cache_that_the_checkpoints_scales_would_spoil(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written: the demo's scales are not 1."""
    python = fake_machine(tmp_path, monkeypatch, H200, runtime="sglang")
    profile = tmp_path / "profile.toml"
    profile.write_text(
        f'description = "test"\nmodel_name = "test"\nruntime = "sglang"\n'
        f'[checkpoint]\ndirectory = "{DEMO_CHECKPOINT}"\n'
        f'[runtime_options]\nkv_cache_dtype = "bfloat16"\n'
    )
    said = r"kv_cache_dtype is 'bfloat16' and .*k_scale of the checkpoint is .* must be 'fp8_e4m3'"
    with pytest.raises(BuildError, match=said):
        build(tmp_path, python, "--profile", str(profile))
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("runtime", "gpu", "version", "words"),
    [
        (
            "vllm",
            "",
            "0.32.0",
            "needs a GPU with the Marlin kernel .*, and this machine has no NVIDIA",
        ),
        ("vllm", T4, "0.32.0", r"has Tesla T4 \(sm75\); choose by the table"),
        ("vllm", H200, "", r"the package vllm is not installed; install vllm 0\.32"),
        ("vllm", H200, "0.11.0", r"vllm must be 0\.32 or later, not 0\.11\.0"),
        ("sglang", T4, "0.5.23", r"has Tesla T4 \(sm75\); choose by the table"),
        ("sglang", H200, "0.5.9", r"sglang must be 0\.5\.23 or later, not 0\.5\.9"),
    ],
)
def test_an_unfit_gpu_or_library_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
    gpu: str,
    version: str,
    words: str,
) -> None:
    python = fake_machine(tmp_path, monkeypatch, gpu, version, runtime)
    with pytest.raises(BuildError, match=words):
        build(tmp_path, python, "--runtime", runtime)
    assert not (tmp_path / "engine").exists()


def test_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(tmp_path, monkeypatch, H200)
    with pytest.raises(
        BuildError, match=r"must be the absolute path of a Python interpreter, not .*nowhere'"
    ):
        build(tmp_path, tmp_path / "nowhere", "--runtime", "vllm")
