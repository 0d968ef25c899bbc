"""The command line of fetch_checkpoint.py: its help, and options that do not fit together."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.paths import BUILD
from tests.support.small_engines import write_checkpoint

SCRIPT = BUILD / "fetch_checkpoint.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def test_help_shows_the_three_ways() -> None:
    process = run("--help")
    assert (process.returncode, process.stderr) == (0, "")
    assert len(re.findall(r"^    python build/fetch_checkpoint\.py --", process.stdout, re.M)) == 3


def test_options_that_do_not_fit_together(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "given")
    shard = checkpoint / "model.safetensors"
    for arguments, expected in (
        ((), "--output is missing; give the folder"),
        (("--check", checkpoint, "--from", checkpoint), "--check and --from exclude each other"),
        (("--check", checkpoint, "--output", tmp_path), "--check copies nothing; leave out --out"),
        (("--from", checkpoint), "--output is missing"),
        (("--check", checkpoint, "--repo", "a/b"), "--check does not ask the hub; leave out"),
        (("--output", tmp_path / "o", "--sha256", checkpoint), "--sha256 is for --from and"),
        (("--output", tmp_path / "o", "--repo", "nvidia"), "--repo must be 'owner/name', not 'nvi"),
        (("--from", checkpoint, "--output", checkpoint), "--from and --output are both"),
        (
            ("--check", tmp_path / "nowhere"),
            "nowhere is not a folder; give one with an NVFP4 check",
        ),
        (("--from", checkpoint, "--output", shard), "is not a folder; give another"),
        (("--from", checkpoint, "--output", tmp_path), "is not empty and holds no checkpoint_man"),
    ):
        process = run(*arguments)
        assert process.returncode == 1, arguments
        assert re.fullmatch(r"error: [^\n]+\n", process.stderr), process.stderr
        assert expected in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["given"]
