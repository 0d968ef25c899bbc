"""How much memory this machine, or the container it runs in, has."""

from __future__ import annotations

import os
from pathlib import Path

from engines.engine_json import CGROUPS, OWN_GROUPS, memory_limits

GIB = 2**30


def machine_memory_bytes(cgroups: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """The machine's memory, or the container's limit where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([memory, *(group.limit for group in memory_limits(cgroups, own))])
