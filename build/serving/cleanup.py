"""Removes what a tritonserver leaves behind when serve.py cannot, because both were killed.

A stub notices by itself that its server died, but it cannot end while one of its threads waits for
the server's answer: Triton 2.51 lets it wait forever, holding the lock that the end needs (and
Python's, so nothing inside the stub can help). So serve.py writes a note of what it runs into a
folder and starts this script beside it. The script waits for the end of its input, which is the end
of serve.py, and then removes whatever the note names that is still there. If this script was killed
as well, the next serve.py does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from host.output_folder import write_whole_file

from serving.processes import (
    POLL_S,
    free_regions,
    process_of,
    remove_leftovers,
)

PREFIX = "llama-fp4-"
NOTE = "server.json"
STUB_GRACE_S = 5.0
SERVER_GRACE_S = 30.0  # for a server that gets SIGTERM because its serve.py is gone


@dataclass(frozen=True)
class ServerNote:
    """What a serve.py runs. A process is its pid and its start, since pids are reused."""

    boot: str
    pid_namespace: str  # pids mean nothing elsewhere, e.g. in another container
    serve: tuple[int, int]  # pid, start in clock ticks
    server: tuple[int, int]

    @property
    def is_local(self) -> bool:
        """Whether its processes, if alive, are visible here."""
        return (self.boot, self.pid_namespace) == (_boot(), _pid_namespace())


def write_note(folder: Path, server_pid: int) -> None:
    """Note in `folder` that this process runs `server_pid`; its regions bear the folder's name."""
    serve, server = process_of(os.getpid()), process_of(server_pid)
    if serve is None or server is None:  # it has ended already
        return
    note = ServerNote(
        _boot(),
        _pid_namespace(),
        (serve.pid, serve.started),
        (server.pid, server.started),
    )
    write_whole_file(folder / NOTE, json.dumps(asdict(note)))


def read_note(folder: Path) -> ServerNote | None:
    """The folder's note; None if there is none that this version wrote."""
    try:
        fields = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        note = ServerNote(**fields)
        pairs = [(int(pid), int(started)) for pid, started in (note.serve, note.server)]
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return ServerNote(note.boot, note.pid_namespace, pairs[0], pairs[1])


def remove_dead_servers() -> None:
    """Remove what this user's servers left whose serve.py is dead, as is its cleanup."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            ours = folder.stat().st_uid == os.geteuid() and not folder.is_symlink()
        except OSError:
            continue
        note = read_note(folder) if ours else None
        if note and note.is_local and not _runs(note.serve) and not _runs(note.server):
            _remove(folder, note)


@contextlib.contextmanager
def watched_folder() -> Iterator[Path]:
    """A folder for the note, with a process beside it that cleans up if this one cannot."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        watch = subprocess.Popen(
            [sys.executable, "-m", "serving.cleanup", name],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # a reader of ours need not wait for it
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield Path(name)
        finally:
            shutil.rmtree(
                name, ignore_errors=True
            )  # first: without it, the process has nothing to do
            assert watch.stdin is not None
            watch.stdin.close()
            watch.wait()


def main(folder: Path) -> None:
    """Wait until serve.py is gone, then clean up what it did not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # serve.py may still need its time to end
    sys.stdin.buffer.read()
    note = read_note(folder)
    if note is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    deadline = time.monotonic() + SERVER_GRACE_S
    while _runs(note.server):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(note.server[0], signal.SIGKILL)
        time.sleep(POLL_S)
    _remove(folder, note)


def _remove(folder: Path, note: ServerNote) -> None:
    # No other process gets the server's pid while one of the server's own is left. So if another
    # one has it, only the regions are left.
    if process_of(note.server[0]) is None:
        remove_leftovers(note.server[0], folder.name, STUB_GRACE_S)
    else:
        free_regions(folder.name)
    shutil.rmtree(folder, ignore_errors=True)


def _runs(process: tuple[int, int]) -> bool:
    now = process_of(process[0])
    return now is not None and now.started == process[1]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
