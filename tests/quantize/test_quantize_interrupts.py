"""A killed quantization: the same command finishes it with exactly the same bytes."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from quantization.report import REPORT
from quantization.texts import TextOptions
from quantize import Job, quantize

from tests.support.quantize_models import TEXTS, run

pytest_plugins = ("tests.support.quantize_fixtures",)

# Preludes: die after the fifth text, or after the export.
AT_TEXT_5 = """
import os, signal
from quantization import modelopt
modelopt.SAVE_INTERVAL_S = 0.0
save = modelopt.CalibrationState.save
def save_and_die(self, model, done, last):
    save(self, model, done, last)
    if done == 5:
        {death}
modelopt.CalibrationState.save = save_and_die
"""
AFTER_EXPORT = """
import os, signal
from checkpoints import check
check.check_content = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def killed(
    bf16: Path, output: Path, texts: TextOptions, prelude: str
) -> subprocess.CompletedProcess[str]:
    arguments = ("--model", bf16, "--output", output, "--calib-data", texts.calib_data)
    numbers = ("--calib-samples", texts.calib_samples, "--calib-tokens", texts.calib_tokens)
    return run("quantize.py", *arguments, *numbers, "--device", "cpu", prelude=prelude)


@pytest.mark.parametrize(
    ("prelude", "done"), [(AT_TEXT_5.format(death=KILL), 5), (AFTER_EXPORT, len(TEXTS))]
)
def test_a_killed_run_is_finished_by_the_next(
    bf16: Path,
    texts: TextOptions,
    nvfp4: Path,
    tmp_path: Path,
    prelude: str,
    done: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert killed(bf16, output, texts, prelude).returncode == -9
    assert not output.exists()
    left = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert left == {"out.calibration", "out.partial"}
    quantize(Job(bf16, output, texts, "cpu"))
    said = capsys.readouterr().out
    assert f"calibration goes on after text {done} of {len(TEXTS)}\n" in said
    assert "left by an interrupted run" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for path in nvfp4.iterdir():
        if path.name != REPORT:
            assert (output / path.name).read_bytes() == path.read_bytes()


def test_ctrl_c_keeps_the_calibration_for_the_same_texts_only(
    bf16: Path, texts: TextOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    result = killed(bf16, output, texts, AT_TEXT_5.format(death="raise KeyboardInterrupt"))
    state = tmp_path / "out.calibration"
    assert result.returncode == 130
    kept = (
        f"interrupted; the calibration so far is kept in {state}, the same command continues there"
    )
    assert result.stderr.splitlines()[-1].startswith(kept)
    assert [path.name for path in tmp_path.iterdir()] == [state.name]
    quantize(Job(bf16, output, dataclasses.replace(texts, calib_tokens=11), "cpu"))
    assert "goes on" not in capsys.readouterr().out
    assert not state.exists()
