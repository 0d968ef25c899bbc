"""The memory limits of the container or service that this process runs in: cgroups, versions 1, 2.

Any group above the process may have a limit. A container often sees its own group as the root,
while `/proc/self/cgroup` names the host's path to it: so the root and every part of that path are
looked at, and what does not exist is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Version:
    """Where a version of cgroups keeps what."""

    folder: str  # of the memory controller's root
    limit: str
    used: str
    caches: tuple[str, str]  # in memory.stat: cached files, which the kernel drops before it kills

    def is_line(self, controllers: str) -> bool:
        """Whether a line of `/proc/self/cgroup` is of this version's memory controller."""
        return self.folder in controllers.split(",")


VERSIONS = (
    _Version("", "memory.max", "memory.current", ("active_file", "inactive_file")),
    _Version(
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
)


@dataclass(frozen=True)
class MemoryLimit:
    """One group's, in bytes."""

    limit: int
    free: int  # of the limit: what is used and cannot be dropped is taken off


def memory_limits(cgroups: Path = CGROUPS, own: Path = OWN_GROUPS) -> Iterator[MemoryLimit]:
    """Of every group that this process is in and that has one."""
    for version in VERSIONS:
        for group in _groups(version, cgroups / version.folder, own):
            try:
                limit = int((group / version.limit).read_text(encoding="utf-8"))
            except (OSError, ValueError):  # no such group, or no limit: "max"
                continue
            yield MemoryLimit(limit, min(limit, max(0, limit - _kept(version, group))))


def _groups(version: _Version, root: Path, own: Path) -> Iterator[Path]:
    """From the root down to the process's own."""
    yield root
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if version.is_line(controllers):
            group = root
            for part in Path(path).parts[1:]:
                group /= part
                yield group


def _kept(version: _Version, group: Path) -> int:
    """Bytes in use that the kernel cannot take back."""
    try:
        used = int((group / version.used).read_text(encoding="utf-8"))
        lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 0
    counts = dict(line.split(maxsplit=1) for line in lines)
    return used - sum(int(counts.get(name, 0)) for name in version.caches)
