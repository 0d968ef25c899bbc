"""`llama-fp4` as a user starts it: a process, with pipes or on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.child_server import ServerProcess

from tests.support.paths import ROOT
from tests.support.processes import PATIENCE_S

COMMAND = (sys.executable, "-m", "llama_fp4")
LEFT_OUT = ("LLAMA_FP4_URL", "NO_COLOR", "COLUMNS", "XDG_STATE_HOME")
CTRL_C, CTRL_D = "\x03", "\x04"


def environment(**more: str) -> dict[str, str]:
    """This process's, with the checkout's package, without the variables that the command reads."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    return {**kept, "PYTHONPATH": str(ROOT / "client"), "TERM": "xterm", **more}


def call(*arguments: str, stdin: str | bytes = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run to the end; `more` are environment variables."""
    given = stdin if isinstance(stdin, bytes) else stdin.encode()
    found = subprocess.run(
        [*COMMAND, *arguments],
        input=given,
        capture_output=True,
        env=environment(**more),
        timeout=2 * PATIENCE_S,
    )
    texts = (found.stdout.decode(), found.stderr.decode())
    return subprocess.CompletedProcess(found.args, found.returncode, *texts)


def ask(server: ServerProcess, *arguments: str, stdin: str = "") -> Any:
    """As `call`, with that server's gRPC address."""
    return call(*arguments, stdin=stdin, LLAMA_FP4_URL=server.ports.url("grpc"))


def answer(server: ServerProcess, *arguments: str, stdin: str = "") -> str:
    """The stdout of a command that succeeds and writes nothing to stderr."""
    found = ask(server, *arguments, stdin=stdin)
    assert (found.returncode, found.stderr) == (0, "")
    text: str = found.stdout
    return text


def json_lines(text: str) -> list[Any]:
    """One document a line."""
    return [json.loads(line) for line in text.splitlines()]


class Terminal:
    """The command on a pseudo-terminal, as its controlling one: Ctrl-C is typed, not sent."""

    def __init__(self, *arguments: str, **more: str) -> None:
        """`more` are environment variables; `columns` is the terminal's width (default unknown)."""
        columns = int(more.pop("columns", "0"))
        self._master, slave = pty.openpty()
        if columns:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**more),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        """As from the keyboard."""
        os.write(self._master, text.encode())

    def line(self, text: str) -> None:
        """Typed, with Enter."""
        self.type(f"{text}\r")

    def read_until(self, text: str) -> str:
        """The output since the last call, up to and including `text`."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            data = self._read(deadline)
            assert data, f"the command ended, without {text!r} in {self.seen!r}"
            self.seen += data
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while data := self._read(deadline):
            self.seen += data
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End the command, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self, deadline: float) -> str:
        left = max(deadline - time.monotonic(), 0)
        assert select.select([self._master], [], [], left)[0], f"nothing after {self.seen!r}"
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            return os.read(self._master, 4096).decode(errors="replace")
        return ""


@contextlib.contextmanager
def terminal(*arguments: str, **more: str) -> Iterator[Terminal]:
    """Closed at the end of the block."""
    found = Terminal(*arguments, **more)
    try:
        yield found
    finally:
        found.close()


def history(folder: Path) -> list[str]:
    """The chat history under XDG_STATE_HOME, line by line."""
    return (folder / "llama-fp4" / "chat_history").read_text(encoding="utf-8").splitlines()
