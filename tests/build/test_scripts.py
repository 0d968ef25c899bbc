"""The scripts in build/ before anything is installed: -S hides every installed package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import BUILD

SCRIPTS = sorted(BUILD.glob("*.py"))
NEED_NO_PACKAGES = {"doctor.py", "make_locks.py", "serve.py", "setup_environment.py"}


def without_packages(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_needs_no_packages(script: Path) -> None:
    done = without_packages(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {script.name} ")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_missing_package_is_named(script: Path) -> None:
    if script.name in NEED_NO_PACKAGES:
        pytest.skip("needs no packages")
    done = without_packages(script)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the package ")
    remedy = f"is not installed for {sys.executable}; run 'make install' and use .venv/bin/python\n"
    assert done.stderr.endswith(remedy)
