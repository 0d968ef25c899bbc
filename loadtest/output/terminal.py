"""Prints a run's progress; the run goes on even if nothing can be printed.

Standard output may be a file on a disk that is full, or a pipe whose reader has left.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def say(text: str) -> None:
    """Print to standard output; if that fails, from then on to standard error."""
    try:
        print(text, flush=True)
    except OSError as error:
        heard = complain(
            f"error: standard output cannot be written: {error.strerror}; it goes on here"
        )
        _discard(sys.stdout)
        if heard:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            with contextlib.suppress(OSError):
                print(text, flush=True)


def complain(sentence: str) -> bool:
    """Print to standard error; returns whether that worked."""
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)
        return False
    return True


def _discard(stream: TextIO) -> None:
    """Send the stream to /dev/null; otherwise Python's exit fails too, with a code of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    stream.flush()
