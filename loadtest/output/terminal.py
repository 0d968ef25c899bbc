"""What a run says while it goes on: it goes on too if nobody can hear it.

Standard output may be a file on a disk that is full, or a pipe whose reader has left.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def say(text: str) -> None:
    """To standard output; where that cannot be written, from then on to standard error."""
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
    """To standard error; whether that could be written."""
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)
        return False
    return True


def _discard(stream: TextIO) -> None:
    """What it holds and gets from now on; else Python's exit fails too, by a code of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    stream.flush()
