"""Runs of the compiler: no work twice, a whole engine or none, one sentence for an error."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import compile_engine as compiler
import pytest
from engine_config import load_engine_config
from host.console import BuildError, run_script

from tests.support.checkpoint_edits import swap_scales
from tests.support.engine_answers import drain, generate
from tests.support.paths import DEMO_CHECKPOINT, ROOT
from tests.support.small_engines import build_engine, load_engine, request, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


def fingerprint(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_second_run_repeats_no_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    folder = build_engine(checkpoint, tmp_path / "engine")
    before = fingerprint(folder)
    capsys.readouterr()
    build_engine(checkpoint, folder)
    assert capsys.readouterr().out == f"{folder} is up to date\n"
    assert fingerprint(folder) == before
    for path in checkpoint.iterdir():  # a copy with new times, yet the same content
        os.utime(path, ns=(0, 0))
    build_engine(checkpoint, folder)
    assert fingerprint(folder) == before


def test_other_options_or_weights_are_built_again(tmp_path: Path) -> None:
    folder = build_engine(write_checkpoint(tmp_path / "a"), tmp_path / "engine")
    build_engine(tmp_path / "a", folder, "--max-batch-size", "2", "--model-name", "one")
    first = load_engine_config(folder)
    assert first.limits.max_batch_size == 2
    other = write_checkpoint(tmp_path / "b", seed=2)
    build_engine(other, folder, "--max-batch-size", "2", "--model-name", "one")
    second = load_engine_config(folder)
    assert second.model.checkpoint_sha256 != first.model.checkpoint_sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "engine"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--max-seq-len", "5000"), "--max-seq-len must be at most 4096, .* not 5000"),
        (("--max-queue-size", "-1"), "limits.max_queue_size .*-1"),
        (
            ("--max-num-tokens", "8"),
            "--max-num-tokens must be at least --max-batch-size, 16, not 8",
        ),
        (
            ("--kv-cache-tokens", "100"),
            "--kv-cache-tokens must be at least --max-seq-len, .*not 100",
        ),
        (("--threads", "-1"), "runtime_options.num_threads is -1"),
    ],
)
def test_wrong_limits_are_named(
    checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(BuildError, match=expected):
        build_engine(checkpoint, tmp_path / "engine", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", ["--max-seq-len", "--max-batch-size", "--max-num-tokens", "--kv-cache-tokens"]
)
@pytest.mark.parametrize("text", ["0", "-3", "1.5", "many"])
def test_an_option_that_counts_is_at_least_1(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    with pytest.raises(SystemExit):
        build_engine(checkpoint, tmp_path / "engine", f"{option}={text}")
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(f"{option}: must be an integer of at least 1, not {text!r}")


@pytest.mark.parametrize(
    ("runtime", "option"),
    [
        ("replay", "--kv-cache-tokens=4096"),
        ("replay", "--prefix-caching"),
        ("vllm", "--backend=pytorch"),
        ("openvino", "--step-seconds=0"),
    ],
)
def test_another_runtimes_option_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: str, option: str
) -> None:
    with pytest.raises(SystemExit):
        build_engine(checkpoint, tmp_path / "engine", option, runtime=runtime)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(f"{option.partition('=')[0]} is not an option of runtime {runtime}")


def test_missing_checkpoint_and_tokenizer_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="nowhere is not a folder; give --checkpoint"):
        build_engine(tmp_path / "nowhere", tmp_path / "engine")
    folder = write_checkpoint(tmp_path / "checkpoint")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BuildError, match=r"tokenizer\.json does not exist"):
        build_engine(folder, tmp_path / "engine")


def test_bad_weights_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    """A sound layout, but the two scales of every linear are swapped."""
    folder = shutil.copytree(DEMO_CHECKPOINT, tmp_path / "checkpoint")
    swap_scales(folder)
    with pytest.raises(BuildError, match="weight_scale_2 and input_scale look swapped in 42 of 42"):
        build_engine(folder, tmp_path / "engine")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_full_disk_is_one_sentence_and_keeps_the_old_engine(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = build_engine(checkpoint, tmp_path / "engine")
    before = fingerprint(folder)

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("engines.openvino_graph._write", no_space)
    with pytest.raises(SystemExit) as exit_info:
        run_script(lambda: print(build_engine(checkpoint, folder, "--max-batch-size", "3")))
    assert exit_info.value.code == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"error: the disk is full: {folder} could not be written whole")
    assert sentence.count("\n") == 1
    assert fingerprint(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


INTERRUPTED = """
import os, signal, sys
sys.path[:0] = [{build!r}]
from engines import engine_json
engine_json.import_openvino()
from engines import openvino_graph
write = openvino_graph._write
def dies_in_the_middle(file, data, phase):
    write(file, data, phase)
    file.flush()
    if file.tell() > 100_000:
        os.kill(os.getpid(), signal.{signal})
openvino_graph._write = dies_in_the_middle
import compile_engine, host.console
host.console.run_script(compile_engine.main)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)])
def test_interrupted_run_leaves_no_engine(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    output = tmp_path / "engine"
    script = INTERRUPTED.format(build=str(ROOT / "build"), signal=name)
    arguments = ("--runtime", "openvino", "--checkpoint", str(checkpoint), "--output", str(output))
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    left = [path.name for path in tmp_path.iterdir()]
    assert all(folder.startswith("engine.partial-") for folder in left)
    assert len(left) == (1 if name == "SIGKILL" else 0)
    engine = load_engine(build_engine(checkpoint, output))
    assert len(generate(engine, request(1, (5, 6), 4))[1].tokens) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_partial_of_a_living_run_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    from host.output_folder import written_whole

    with written_whole(tmp_path / "engine", "engine.json") as partial:
        (partial / "engine.json").write_text("{}")
        build_engine(checkpoint, tmp_path / "engine")
        assert (partial / "engine.json").exists()


def test_a_foreign_folder_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(BuildError, match=r"not empty and holds no engine\.json"):
        build_engine(checkpoint, tmp_path)
    assert (tmp_path / "letters.txt").exists()


def test_compile_main_reports_phases(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["compile_engine.py", "--runtime", "openvino", "--output", str(tmp_path / "e")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--checkpoint", str(checkpoint)])
    run_script(compiler.main)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("writing the weights, ") and line.endswith(" s") for line in lines)
    assert lines[-1] == f"{tmp_path / 'e'} is ready"
    drain(load_engine(tmp_path / "e"))
