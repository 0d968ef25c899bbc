"""The OpenAI gateway beside tritonserver: started after it, stopped before it, and watched."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from serving.processes import end_with_parent

PACKAGES = (
    "llama_fp4",
    "starlette",
    "uvicorn",
    "httptools",
    "uvloop",
    "pydantic",
    "prometheus_client",
)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
WELL_S = 60.0  # a gateway that ran for so long has not failed at its start
KILL_S = 5.0


def missing_package() -> str:
    """The first package of the extra `gateway` that is not installed; "" if none is missing."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name) is None), "")


class GatewayProcess:
    """One gateway; without a command, none. One that dies is named and started again."""

    def __init__(self, command: Sequence[str] = ()) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._due = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._asked = False

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def attend(self) -> None:
        """Start it if it is due, and look whether it has died; call this often."""
        if not self._command or self._asked or self.runs:
            return
        now = time.monotonic()
        if self._process is not None:
            self._report(self._process, now)
        if self._process is None and now >= self._due:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C reaches serve.py alone
                preexec_fn=end_with_parent,
            )
            self._started_at = now

    def _report(self, process: subprocess.Popen[bytes], now: float) -> None:
        if now - self._started_at > WELL_S:
            self._pause_s = FIRST_PAUSE_S
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        print(
            f"warning: the gateway ended with {how}; it starts again in {self._pause_s:g} s",
            file=sys.stderr,
            flush=True,
        )
        self._process, self._due = None, now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def ask_to_end(self) -> None:
        """Let it finish its streams and end; safe in a signal handler."""
        self._asked = True
        if self.runs and self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """End it now, when there is no server behind it any more."""
        self.ask_to_end()
        if self._process is None:
            return
        try:
            self._process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
