"""Gives back the memory of a mapped file that this process does not read any more.

OpenVINO maps `openvino_model.bin` and makes its own copy of each weight in the first forward pass;
the pages that it has read stay the process's until the machine is short of memory. Once they are
given back, whoever reads one again gets it from the file.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

MADV_DONTNEED = 4  # of Linux, on every architecture
MAPS = Path("/proc/self/maps")


def release_mapped_file(path: Path) -> int:
    """Drop this process's pages of a file; returns how many bytes of mappings were dropped.

    Only mappings that cannot be written are touched: theirs are the file's own bytes. A system
    that cannot do it loses nothing but the memory: 0 bytes.
    """
    if not sys.platform.startswith("linux"):
        return 0
    try:
        name = os.path.realpath(path)
        maps = MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(
        length
        for start, length in _read_only_mappings(maps, name)
        if madvise(start, length, MADV_DONTNEED) == 0
    )


def _read_only_mappings(maps: list[str], name: str) -> Iterator[tuple[int, int]]:
    """(address, length) of each mapping of the file."""
    for line in maps:
        addresses, access, *_, mapped = line.split(maxsplit=5)
        if mapped == name and "w" not in access:
            start, _, end = addresses.partition("-")
            yield int(start, 16), int(end, 16) - int(start, 16)
