"""`make test-gpu`: the runtime that fits this machine's GPU, tested and measured on it.

    python -m tests.with_gpu.run [--runtime NAME] [--engine-python PATH] [--option KEY=JSON ...]

Compiles the demo checkpoint and a random one of the 8B shape for it, runs the shared suite and the
ensemble's tests, and prints tokens/s through the ensemble beside the library called directly. Exit
code 1 if anything failed or was skipped. What is compiled stays in build/out/gpu.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compile_engine import find_step
from doctor import machine
from engines.gpu_step import GpuCompileStep
from engines.step import installed_version
from host.console import BuildError, run_script, say
from host.gpus import Gpu, find_gpus
from reference.prompts import load_tokenizer

from tests.support.paths import BUILD, DEMO, DEMO_CHECKPOINT, ROOT, TESTS
from tests.with_gpu.gpu_settings import (
    PROMPT_TOKENS,
    STREAMS,
    Setting,
    limits,
    runtime_options,
)

OUT = BUILD / "out" / "gpu"
LARGE = OUT / "llama-3.1-8b-random"
RUNTIMES = ("tensorrt_llm", "vllm", "sglang")  # the first that fits is the one to serve with
VLLM_VENV = ROOT / ".venv-vllm"
NEEDED = "pytest, pytest_timeout, numpy, torch, tritonclient.grpc"  # beside the library
PROMPTS = 64
PARTS = {"ensemble": "test_ensemble_on_gpu.py", "runtime": "test_runtime_on_gpu.py"}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--runtime", choices=RUNTIMES, help="default: the first of these that fits the GPU")
    add("--engine-python", default="", help="the interpreter that has the runtime's library")
    add("--part", choices=tuple(PARTS), action="append", help="default: both, in this order")
    add("--option", action="append", default=[], metavar="KEY=JSON", help="of runtime_options")
    options = parser.parse_args()
    gpus = find_gpus()
    runtime = choose_runtime(options.runtime, gpus)
    python = options.engine_python or find_python(runtime)
    check_python(python, runtime)
    for name, value in machine():
        say(f"{name:<14}{value}")
    say(f"{'date':<14}{time.strftime('%Y-%m-%d')}")
    say(f"{'runtime':<14}{runtime} {installed_version(*packages(runtime), python=python)}\n")
    setting = prepare(runtime, python, gpus[0], dict(map(read_option, options.option)))
    failed = run_tests(setting, options.part or list(PARTS))
    print_figures(setting)
    if failed:
        raise BuildError(f"{' and '.join(failed)} failed; see above")


def choose_runtime(named: str | None, gpus: list[Gpu]) -> str:
    """The one named, or the first that computes on the first GPU; raises `BuildError`."""
    if not gpus:
        raise BuildError("no NVIDIA GPU was found; run 'make doctor'")
    fitting = [name for name in RUNTIMES if step_of(name).can_compute(gpus[0])]
    if not fitting:
        raise BuildError(f"no runtime runs NVFP4 on {gpus[0]}; run 'make doctor'")
    if named and named not in fitting:
        raise BuildError(
            f"{named} does not run on {gpus[0]}; --runtime must be one of {', '.join(fitting)}"
        )
    return named or fitting[0]


def step_of(runtime: str) -> GpuCompileStep[Any]:
    """Its compile step."""
    step = find_step(runtime)
    assert isinstance(step, GpuCompileStep)
    return step


def packages(runtime: str) -> tuple[str, ...]:
    """Names under which its library may be installed."""
    return step_of(runtime).packages


def find_python(runtime: str) -> str:
    """An interpreter that has it; vLLM is installed if there is none. Raises `BuildError`."""
    for candidate in (sys.executable, str(VLLM_VENV / "bin" / "python"), shutil.which("python3")):
        if (
            candidate
            and Path(candidate).exists()
            and installed_version(*packages(runtime), python=candidate)
        ):
            return os.path.abspath(candidate)
    if runtime != "vllm":
        raise BuildError(
            f"{runtime} fits this GPU and is not installed; {step_of(runtime).install}, and name "
            "it with ENGINE_PYTHON=/path/to/python"
        )
    script = str(BUILD / "setup_environment.py")
    command = [sys.executable, script, "--venv", str(VLLM_VENV), "--extras", "vllm,dev"]
    if subprocess.call(command) != 0:
        raise BuildError("vLLM could not be installed; it says why above")
    return str(VLLM_VENV / "bin" / "python")


def check_python(python: str, runtime: str) -> None:
    """Raise `BuildError` if it lacks what the tests need besides the library."""
    ran = subprocess.run([python, "-c", f"import {NEEDED}"], capture_output=True, text=True)
    if ran.returncode:
        reason = ran.stderr.strip().splitlines()[-1]
        raise BuildError(
            f"{python} cannot run the tests of {runtime} ({reason}); run '{python} -m pip install "
            "pytest pytest-timeout tritonclient[grpc]'"
        )


def read_option(text: str) -> tuple[str, Any]:
    """`key=JSON`; raises `BuildError`."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        raise BuildError(f"--option must be KEY=JSON, not {text!r}") from None


def prepare(runtime: str, python: str, gpu: Gpu, more: dict[str, Any]) -> Setting:
    """Both engines, and the prompts."""
    OUT.mkdir(parents=True, exist_ok=True)
    if not (LARGE / "hf_quant_config.json").exists():
        shape = ["--shape", "llama-3.1-8b", "--random", "--tokenizer", str(DEMO_CHECKPOINT)]
        build("make_checkpoint.py", *shape, "--output", str(LARGE))
    checkpoints = {"demo": DEMO_CHECKPOINT, "large": LARGE}
    engines = {}
    for size, checkpoint in checkpoints.items():
        engines[size] = str(OUT / f"{runtime}-{size}")
        profile = OUT / f"{runtime}-{size}.toml"
        profile.write_text(profile_text(runtime, size, checkpoint, more), encoding="utf-8")
        command = ["--profile", str(profile), "--output", engines[size], "--engine-python", python]
        build("compile_engine.py", *command)
    texts, ids = make_prompts()
    return Setting(
        runtime=runtime,
        computes_in_fp4=gpu.has_fp4,
        engines=engines,
        checkpoints={size: str(folder) for size, folder in checkpoints.items()},
        engine_python=python,
        prompts=texts,
        prompt_ids=ids,
        figures=str(OUT),
    )


def build(script: str, *arguments: str) -> None:
    """Run one of the build's scripts; raises `BuildError`."""
    if subprocess.call([sys.executable, str(BUILD / script), *arguments]) != 0:
        raise BuildError(f"{script} failed; it says why above")


def profile_text(runtime: str, size: str, checkpoint: Path, more: dict[str, Any]) -> str:
    """A profile as build/profiles has them."""
    tables: dict[str, dict[str, Any]] = {
        "checkpoint": {"directory": str(checkpoint)},
        "limits": limits(runtime, size),
        "runtime_options": {**runtime_options(runtime, size), **more},
    }
    lines = [f'description = "make test-gpu, {size}"', f'model_name = "{size}"']
    lines.append(f'runtime = "{runtime}"')
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """As JSON, but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(one)}' for key, one in value.items()) + "}"
    return json.dumps(value)


def make_prompts() -> tuple[list[str], list[list[int]]]:
    """Texts of PROMPT_TOKENS tokens, of the demo's own words, that begin differently."""
    tokenizer = load_tokenizer(DEMO_CHECKPOINT)
    golden = json.loads((DEMO / "golden" / "greedy.json").read_text(encoding="utf-8"))
    words = " ".join(one["text"] for one in golden["prompts"]).split()
    texts, ids = [], []
    for number in range(PROMPTS):
        count, encoded = 0, list[int]()
        while len(encoded) < PROMPT_TOKENS:
            count += 1
            text = " ".join((words * 9)[number * 7 :][:count])
            encoded = tokenizer.encode(text).ids
        texts.append(text)
        ids.append(encoded)
    return texts, ids


def run_tests(setting: Setting, parts: list[str]) -> list[str]:
    """The parts that failed."""
    path = OUT / "setting.json"
    path.write_text(json.dumps(asdict(setting)), encoding="utf-8")
    environment = {**os.environ, "GPU_SETTING": str(path)}
    pythons = {"ensemble": sys.executable, "runtime": setting.engine_python}
    failed = []
    for part in parts:
        say(f"\n{PARTS[part]} in {pythons[part]}")
        test = str(TESTS / "with_gpu" / PARTS[part])
        command = [pythons[part], "-m", "pytest", test, "--timeout", "600", "-rP"]
        if subprocess.call(command, env=environment, cwd=ROOT) != 0:
            failed.append(PARTS[part])
    return failed


def print_figures(setting: Setting) -> None:
    """Tokens/s of both, side by side."""
    both = []
    for name in ("direct", "ensemble"):
        path = Path(setting.figures) / f"{setting.runtime}-{name}.json"
        both.append(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})
    direct, ensemble = both
    say(f"\n8B shape, prompts and answers of 128 tokens, {setting.runtime}, tokens/s:")
    for streams in map(str, STREAMS):
        a, b = direct.get(streams, float("nan")), ensemble.get(streams, float("nan"))
        say(
            f"{streams:>4} streams: library called directly {a:8.0f}, "
            f"through the ensemble {b:8.0f}, ratio {b / a:.2f}"
        )


if __name__ == "__main__":
    run_script(main)
