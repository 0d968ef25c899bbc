"""What a test of another process sees of the library in it."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path


def spawn_a_process(pid_file: str) -> None:
    """With the method "spawn", which runs the main module once more; writes down its pid."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=time.sleep, args=(3600,), daemon=True)
    process.start()
    Path(pid_file).write_text(str(process.pid), encoding="utf-8")


def note_shutdown(path: str) -> None:
    """The library was told to shut down; nothing is written without a path."""
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("shutdown\n")
