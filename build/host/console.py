"""A build script's output: phase lines with seconds and progress, and failures of one line."""

from __future__ import annotations

import argparse
import contextlib
import errno
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn

PROGRESS_INTERVAL_S = 0.5  # on a terminal
PLAIN_PROGRESS_INTERVAL_S = 10.0  # in a log file, where a line cannot be overwritten


class BuildError(RuntimeError):
    """The build cannot continue; the message is one sentence: what is wrong, and its remedy."""


def fail(sentence: str) -> NoReturn:
    """Print `error: sentence` on stderr and end the process with exit code 1."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def say(line: str) -> None:
    """Print one line on stdout at once."""
    print(line, flush=True)


class Phase:
    """`with Phase("writing the weights", total_bytes) as phase: ... phase.advance(n)`.

    Prints the phase's name, its progress in GB or in `unit`, and its seconds at the end.
    """

    def __init__(self, name: str, total: int = 0, unit: str = "") -> None:
        self._name = name
        self._total = total
        self._unit = unit
        self._done = 0
        self._terminal = sys.stdout.isatty()
        self._interval = PROGRESS_INTERVAL_S if self._terminal else PLAIN_PROGRESS_INTERVAL_S
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Phase:
        self._start = self._last = time.monotonic()
        if self._terminal:
            print(f"{self._name} ...", end="", flush=True)
        return self

    def advance(self, count: int) -> None:
        """Count `count` more bytes, or units, as done."""
        self._done += count
        now = time.monotonic()
        if self._total and now - self._last >= self._interval:
            self._last = now
            share = f"{self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB"
            if self._unit:
                share = f"{self._unit} {self._done:,} of {self._total:,}"
            start, end = ("\r", "\x1b[K") if self._terminal else ("", "\n")
            print(f"{start}{self._name} ... {share}", end=end, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seconds = time.monotonic() - self._start
        start, end = ("\r", "\x1b[K\n") if self._terminal else ("", "\n")
        outcome = f"{seconds:.1f} s" if kind is None else f"stopped after {seconds:.1f} s"
        print(f"{start}{self._name}: {outcome}", end=end, flush=True)


@contextlib.contextmanager
def _one_line_failures() -> Iterator[None]:
    try:
        yield
    except BuildError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; nothing was changed", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fail(f"the disk is full ({error}); free space there and run the same command again")
        fail(f"{error}; fix that and run the same command again")


def stop_resumable(what: str, place: Path) -> NoReturn:
    """End an interrupted script whose progress, `what`, is kept in `place`."""
    message = f"interrupted; {what} is kept in {place}, the same command continues there"
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(130) from None


_missing: list[str] = []  # a package that the script's imports lack


@contextlib.contextmanager
def script_imports(name: str) -> Iterator[None]:
    """`with script_imports(__name__):` around a script's imports that need installed packages.

    Without those packages `--help` still works; `run_script` refuses everything else.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if name != "__main__":
            raise
        _missing.append(error.name or str(error))


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`.

    `BuildError`, a missing package, a full disk and Ctrl-C end the script with one sentence.
    """
    if _missing and not {"-h", "--help"} & set(sys.argv[1:]):
        fail(
            f"the package {_missing[0]} is not installed for {sys.executable}; run 'make install' "
            "and use .venv/bin/python"
        )
    with _one_line_failures():
        main()


def at_least_1(text: str) -> int:
    """The `type` of an option that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r:.60}")
    return int(text)
