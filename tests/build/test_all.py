"""`build/all.py`: from nothing to a verified repository, resumed after any kill."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from host.gpus import FAMILIES
from repository.manifest import check_manifest
from repository.unary import kind_of

from tests.support.paths import BUILD, DEMO_CHECKPOINT, ROOT

ALL = BUILD / "all.py"
DOCKERFILE = (BUILD / "Dockerfile").read_text(encoding="utf-8")


def run_all(*arguments: object, script: Path = ALL) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def test_the_demo_from_its_files_to_a_verified_repository(tmp_path: Path) -> None:
    done = run_all("--profile", "demo", "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = re.findall(r"^step \d of 7: (\w+)$", done.stdout, re.MULTILINE)
    assert steps == ["machine", "checkpoint", "engine", "repository", "check", "reference",
                     "verify"]  # fmt: skip
    serve = f"{sys.executable} {BUILD / 'serve.py'} --model-repository {tmp_path / 'repository'}\n"
    assert done.stdout.endswith(f"; serve it with:\n  {serve}")
    assert check_manifest(tmp_path / "repository") > 50
    engine = json.loads((tmp_path / "engine" / "engine.json").read_text())
    assert (engine["model"]["name"], engine["runtime"]) == ("demo", "openvino")
    assert kind_of(tmp_path / "repository") == "streaming"
    again = run_all("--profile", "demo", "--output", tmp_path, "--no-verify", "--unary")
    assert again.returncode == 0
    assert kind_of(tmp_path / "repository") == "unary"
    assert f"{tmp_path / 'engine'} is up to date" in again.stdout
    assert "building the graph" not in again.stdout


def test_a_folder_that_triton_cannot_use_is_refused_before_the_build(tmp_path: Path) -> None:
    done = run_all("--profile", "demo", "--output", tmp_path / "two words")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'two words'} has ' ' in its name, and ")
    assert not (tmp_path / "two words").exists()


# Killed in the middle of a step; the marker is the step's own line.
KILLED = """
import os, subprocess, sys
sys.argv = {argv!r}
sys.path.insert(0, {build!r})
call = subprocess.call
def killed(command):
    if {script!r} in command[1]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        process.kill()
        process.wait()
        os.kill(os.getpid(), 9)
    return call(command)
subprocess.call = killed
import all as everything
everything.main()
"""


@pytest.mark.parametrize("script", ["compile_engine.py", "assemble_repository.py"])
def test_killed_in_a_step_the_same_command_finishes(tmp_path: Path, script: str) -> None:
    output = tmp_path / "out"
    argv = ["all.py", "--profile", "demo", "--output", str(output), "--no-verify"]
    code = KILLED.format(argv=argv, build=str(BUILD), script=script)
    if script == "compile_engine.py":  # its first call only checks the machine
        code = code.replace("in command[1]:", "in command[1] and '--output' in command:")
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    done = run_all(*argv[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert check_manifest(output / "repository") > 50
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint", "engine", "repository"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--profile", "nope"), "there is no profile 'nope'; give a file, or one of"),
        (
            ("--profile", "demo", "--checkpoint", "a", "--quantize", "b"),
            "--checkpoint and --quantize exclude each other",
        ),
        (("--profile", "demo", "--calib-data", "a"), "--calib-data is for --quantize"),
        (("--profile", "demo", "--checkpoint", "/nowhere"), "/nowhere is not a folder"),
    ],
)
def test_wrong_options_are_one_sentence(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run_all(*arguments, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unfit_machine_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    done = run_all("--profile", "llama-3.1-8b-b200", "--output", tmp_path, "--runtime", "nope")
    assert done.returncode != 0
    done = run_all("--profile", "llama-3.1-8b-b200", "--output", tmp_path)
    if "this machine will do" in done.stdout:
        pytest.skip("this machine is a Blackwell")
    assert done.returncode == 1
    assert "error: runtime tensorrt_llm needs the FP4 tensor cores of Blackwell" in done.stderr
    assert all(names in done.stderr for _, names, _, _ in FAMILIES)
    again = f"stopped at step 'machine'; continue with: {sys.executable} {ROOT / 'build/all.py'} "
    assert again in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_dockerfile_copies_all_that_the_build_needs(tmp_path: Path) -> None:
    """Follow its COPY lines in a new folder, and build there."""
    for sources, target in re.findall(r"^COPY (.+) (\S+)$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            copied = tmp_path / "app" / target / (source if target == "./" else "")
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns(
                    "out", "engine", "engine.partial", "engine.old", "__pycache__"
                )
                shutil.copytree(ROOT / source, copied, ignore=ignored)
            else:
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, copied)
    arguments = ("--profile", "demo", "--checkpoint", DEMO_CHECKPOINT, "--runtime", "replay")
    done = run_all(*arguments, "--output", tmp_path / "models", "--no-verify",
                   script=tmp_path / "app" / "build" / "all.py")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert check_manifest(tmp_path / "models" / "repository") > 50
