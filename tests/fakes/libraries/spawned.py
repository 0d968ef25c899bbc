"""Traces by which a test observes the library in another process."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path


def spawn_a_process(pid_file: str) -> None:
    """Start one by "spawn", which runs the main module once more, and write down its pid."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=time.sleep, args=(3600,), daemon=True)
    process.start()
    Path(pid_file).write_text(str(process.pid), encoding="utf-8")


def note_shutdown(path: str) -> None:
    """Add a line to the file at `path`, if there is one."""
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("shutdown\n")
