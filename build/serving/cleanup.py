"""Removes what a tritonserver leaves behind when serve.py cannot, because both were killed.

A stub looks for the death of its server by itself, but does not end if one of its threads waits for
an answer of the server at that moment: Triton 2.51 lets it wait for ever, with the lock that the
end needs (and with Python's, so nothing within the stub can help). So serve.py notes what it runs
in a folder, and starts this script beside it: it waits for the end of its input, which is the end
of serve.py, and removes what the note names, if it is still there. Where this script was killed as
well, the next serve.py does it.
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
    """A process is named by its pid and its start, since pids are used again."""

    boot: str
    pid_namespace: str  # pids mean nothing elsewhere, e.g. in another container
    serve: tuple[int, int]  # pid, start in clock ticks
    server: tuple[int, int]

    @property
    def is_of_here(self) -> bool:
        """Whether its processes, if they live, can be seen from here."""
        return (self.boot, self.pid_namespace) == (_boot(), _pid_namespace())


def write_note(folder: Path, server_pid: int) -> None:
    """Say in `folder` that this process runs `server_pid`, with regions of the folder's name."""
    serve, server = process_of(os.getpid()), process_of(server_pid)
    if serve is None or server is None:  # it has ended already
        return
    note = ServerNote(
        _boot(),
        _pid_namespace(),
        (serve.pid, serve.started),
        (server.pid, server.started),
    )
    aside = folder / f"{NOTE}.part"
    aside.write_text(json.dumps(asdict(note)), encoding="utf-8")
    aside.replace(folder / NOTE)


def read_note(folder: Path) -> ServerNote | None:
    """None if there is none, or none that this version wrote."""
    try:
        fields = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        note = ServerNote(**fields)
        pairs = [(int(pid), int(started)) for pid, started in (note.serve, note.server)]
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return ServerNote(note.boot, note.pid_namespace, pairs[0], pairs[1])


def remove_dead_servers() -> None:
    """What servers of this user left whose serve.py, and whatever it had beside it, are dead."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            ours = folder.stat().st_uid == os.geteuid() and not folder.is_symlink()
        except OSError:
            continue
        note = read_note(folder) if ours else None
        if note and note.is_of_here and not _runs(note.serve) and not _runs(note.server):
            _remove(folder, note)


@contextlib.contextmanager
def watched_folder() -> Iterator[Path]:
    """A folder for the note, and a process that cleans up if this one cannot."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        watch = subprocess.Popen(
            [sys.executable, "-m", "serving.cleanup", name],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # whoever reads ours need not wait for it
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield Path(name)
        finally:
            shutil.rmtree(name, ignore_errors=True)  # first: without it, nothing is to be done
            assert watch.stdin is not None
            watch.stdin.close()
            watch.wait()


def main(folder: Path) -> None:
    """Until serve.py is gone; then clean up, if it did not do that itself."""
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
    # While one of its processes is left, no other process gets the server's pid; so if another
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
