"""How much memory this machine, or the container it runs in, has."""

from __future__ import annotations

import os
from pathlib import Path

GIB = 2**30
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # version 2; "max" is no limit


def machine_memory_bytes() -> int:
    """The machine's memory, or the container's limit where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CGROUP_LIMIT.read_text(encoding="utf-8").strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdigit() else memory
