"""The processes, shared memory and metrics of a running server."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from serving.child_server import ServerProcess
from serving.processes import SHARED_MEMORY, Stub, process_of, stubs_of

PATIENCE_S = 120.0  # an upper bound for things that happen at once; never waited for in full
STEP_S = 0.03  # of the paced replay engines


def url(server: ServerProcess, wire: str) -> str:
    """As a client takes it; `wire` is "grpc" or "http"."""
    return ("" if wire == "grpc" else "http://") + server.ports.url(wire)


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == pid:
            found.append(int(folder.name))
    return found


def descendants(pid: int) -> list[int]:
    """Its children, their children and so on."""
    found = children(pid)
    return found + [one for child in found for one in descendants(child)]


def server_of(serve_pid: int) -> int | None:
    """The tritonserver that a serve.py runs, or None."""
    for pid in filter(process_of, children(serve_pid)):  # without zombies
        if b"tritonserver" in Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]:
            return pid
    return None


def triton_of(serve_pid: int) -> int:
    """The tritonserver that a serve.py runs."""
    pid = server_of(serve_pid)
    assert pid is not None, "there is no tritonserver"
    return pid


def engine_of(serve_pid: int) -> int:
    """The engine process of a server: the only child that a stub has."""
    (pid,) = [child for stub in stubs_of(triton_of(serve_pid)) for child in children(stub.pid)]
    return pid


def is_alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command_line(pid: int) -> str:
    """The command line of a running process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def server_memory_mib(server: ServerProcess) -> float:
    """Memory of serve.py and all its descendants."""
    return memory_mib(server.pid, *descendants(server.pid))


def memory_mib(*pids: int) -> float:
    """Memory of these processes (PSS): what they share counts once."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8") for pid in pids]
    return sum(int(text.split("\nPss:")[1].split()[0]) for text in rollups) / 1024


def regions(stubs: set[Stub]) -> list[str]:
    """The stubs' shared-memory regions that exist."""
    return [stub.region for stub in stubs if (SHARED_MEMORY / stub.region).exists()]


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Poll until `condition` holds; fails the test if it does not within PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.01)


def wait_until_the_engine_works(server: ServerProcess) -> None:
    """Return when it makes steps."""
    engine = engine_of(server.pid)
    before = wakeups(engine)
    eventually(lambda: wakeups(engine) - before > 5, "the engine makes steps")


def wait_until_the_engine_rests(server: ServerProcess) -> None:
    """Return when it makes no more steps, each of which takes STEP_S at most."""
    engine = engine_of(server.pid)

    def rests() -> bool:
        before = wakeups(engine)
        time.sleep(20 * STEP_S)  # what is observed: the engine waits once a step
        return wakeups(engine) - before < 5

    eventually(rests, "the engine makes no more steps")


def figure(server: ServerProcess, name: str) -> float:
    """A value of the server's metrics."""
    with urllib.request.urlopen(f"http://{server.ports.url('metrics')}/metrics") as answer:
        (value,) = re.findall(rf"^{name}\S* (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(value)


def wakeups(pid: int) -> int:
    """How often the process has waited so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


class Remains:
    """What a server could leave behind: its processes and regions, noted while it runs."""

    def __init__(self, server: ServerProcess) -> None:
        self.triton = triton_of(server.pid)
        self.engine = engine_of(server.pid)
        self.stubs = stubs_of(self.triton)
        assert len(self.stubs) == 4
        assert len(regions(self.stubs)) == 4

    def found(self) -> bool:
        pids = [self.triton, self.engine, *(stub.pid for stub in self.stubs)]
        return any(map(is_alive, pids)) or bool(regions(self.stubs))
