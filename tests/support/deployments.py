"""Engines and repositories of the demo checkpoint, compiled by the script as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from assemble_repository import assemble

from tests.support.paths import BUILD, DEMO_CHECKPOINT


def compile_engine(output: Path, *arguments: str) -> Path:
    """Run compile_engine.py on the demo checkpoint; returns the engine's folder, `output`."""
    script = [sys.executable, str(BUILD / "compile_engine.py")]
    where = ["--checkpoint", str(DEMO_CHECKPOINT), "--output", str(output)]
    subprocess.run([*script, *where, *arguments], check=True, stdout=subprocess.DEVNULL)
    return output


def make_deployment(folder: Path, *arguments: str) -> Path:
    """Compile into `folder`/engine and assemble; returns the repository, ready to serve."""
    engine = compile_engine(folder / "engine", *arguments)
    assemble(engine, folder / "model_repository")
    return folder / "model_repository"
