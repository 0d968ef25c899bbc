"""The memory of an OpenVINO engine: what it takes, what is free, and what it can give back.

Free memory is the machine's, or less if a cgroup (version 1 or 2) limits this process. Any group
above the process may have a limit. A container often sees its own group as the root, while
`/proc/self/cgroup` names the host's path to it. So this module looks at the root and at every part
of that path, and skips what does not exist.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from token_engine.interface import EngineLoadError
from token_engine.openvino_runtime.library import REBUILD
from token_engine.openvino_runtime.options import (
    BYTES_OF_PRECISION,
    KV_BLOCK_TOKENS,
    OpenVinoOptions,
)
from token_engine.openvino_runtime.precision import Settled

WEIGHTS_FILE = "openvino_model.bin"
MODEL_FILES = ("openvino_model.xml", WEIGHTS_FILE, "config.json", "generation_config.json")

# Measured within 2 %: the anonymous memory of warm engines of four shapes, with 60 million to 7
# billion 4-bit weights, in both precisions and with the instructions of three kinds of CPU.
LINEAR_BYTES = 1.04  # of a 4-bit weight: itself, repacked, with its block's scale in f32
VOCABULARY_BYTES = {"bf16": 6, "f32": 8}  # of a value of the LM head and one of the embedding


@dataclass(frozen=True)
class ModelShape:
    """The counts that decide how much memory a model takes."""

    linear_values: int  # of all 4-bit weights
    vocabulary_values: int  # of the LM head; the embedding has as many
    kv_values_per_token: int  # keys and values of all layers

    @classmethod
    def of(cls, config: dict[str, Any]) -> ModelShape:
        """From a `config.json`; raises `KeyError`, `TypeError`, `ValueError` for a damaged one."""
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        heads = int(config["num_attention_heads"])
        head_dim = int(config.get("head_dim") or hidden // heads)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        attention = (2 * heads + 2 * kv_heads) * head_dim * hidden
        mlp = 3 * hidden * int(config["intermediate_size"])
        return cls(
            linear_values=layers * (attention + mlp),
            vocabulary_values=hidden * int(config["vocab_size"]),
            kv_values_per_token=2 * layers * kv_heads * head_dim,
        )

    def weight_bytes(self, precision: str) -> int:
        """Bytes of the repacked weights for arithmetic in `precision`.

        The mapped file that they are made from does not count: the system can reclaim it.
        """
        vocabulary = self.vocabulary_values * VOCABULARY_BYTES[precision]
        return int(self.linear_values * LINEAR_BYTES + vocabulary)

    def kv_cache_bytes(self, num_kv_blocks: int, precision: str) -> int:
        """Bytes of the KV cache when it is full."""
        tokens = num_kv_blocks * KV_BLOCK_TOKENS
        return int(tokens * self.kv_values_per_token * BYTES_OF_PRECISION[precision])


CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Version:
    """The file names of one version of cgroups."""

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
    """The limit of one group, in bytes."""

    limit: int
    free: int  # the limit without the memory that is in use and cannot be dropped


def memory_limits(cgroups: Path = CGROUPS, own: Path = OWN_GROUPS) -> Iterator[MemoryLimit]:
    """The limit of every group that this process is in and that has one."""
    for version in VERSIONS:
        for group in _groups(version, cgroups / version.folder, own):
            try:
                limit = int((group / version.limit).read_text(encoding="utf-8"))
            except (OSError, ValueError):  # no such group, or no limit: "max"
                continue
            yield MemoryLimit(limit, min(limit, max(0, limit - _kept(version, group))))


def _groups(version: _Version, root: Path, own: Path) -> Iterator[Path]:
    """The groups from the root down to the process's own."""
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


MADV_DONTNEED = 4  # of Linux, on every architecture
MAPS = Path("/proc/self/maps")


def release_mapped_file(path: Path) -> int:
    """Drop this process's pages of a file; returns how many bytes of mappings were dropped.

    Only read-only mappings are touched, whose bytes are the file's own. A system
    that cannot do it only keeps the memory: 0 bytes.
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


def has_memory(directory: Path, options: OpenVinoOptions) -> Callable[[str, str], bool]:
    """Whether the engine with these precisions fits the free memory.

    `check_memory` says what is missing.
    """

    def fits(precision: str, kv_cache_precision: str) -> bool:
        shape, free = read_shape(directory), available_bytes()
        cache = shape.kv_cache_bytes(options.num_kv_blocks, kv_cache_precision)
        return shape.weight_bytes(precision) + cache <= free

    return fits


def check_memory(directory: Path, options: OpenVinoOptions, settled: Settled) -> None:
    """Raise `EngineLoadError` if a file is missing, or weights and KV cache exceed free memory."""
    for name in MODEL_FILES:
        if not (directory / name).is_file():
            raise EngineLoadError(f"{directory / name} does not exist; {REBUILD}")
    shape = read_shape(directory)
    weights = shape.weight_bytes(settled.precision)
    cache = shape.kv_cache_bytes(options.num_kv_blocks, settled.kv_cache_precision)
    free = available_bytes()
    if weights + cache > free:
        raise EngineLoadError(
            f"the weights ({weights / 1e9:.1f} GB in {settled.precision}) and the KV cache "
            f"({cache / 1e9:.1f} GB in {settled.kv_cache_precision}, num_kv_blocks "
            f"{options.num_kv_blocks}) exceed the {free / 1e9:.1f} GB that are free; free memory, "
            f"or {_smaller(shape, settled, free)}"
        )


def _smaller(shape: ModelShape, settled: Settled, free: int) -> str:
    a_block = shape.kv_cache_bytes(1, settled.kv_cache_precision)
    tokens = (free - shape.weight_bytes(settled.precision)) // a_block * KV_BLOCK_TOKENS
    if tokens <= 0:
        return "serve on a machine with more"
    return (
        f"build the engine with a --kv-cache-tokens of at most {tokens}, and a --max-seq-len that "
        "is no more"
    )


def read_shape(directory: Path) -> ModelShape:
    """From the engine's `config.json`; raises `EngineLoadError`."""
    path = directory / "config.json"
    if not path.is_file():
        raise EngineLoadError(f"{path} does not exist; {REBUILD}")
    try:
        return ModelShape.of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise EngineLoadError(f"{path} is damaged ({error!r}); {REBUILD}") from error


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroups: Path = CGROUPS, own: Path = OWN_GROUPS
) -> int:
    """Memory that is free without swapping: the machine's, or the container's if that is less."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    return min([free, *(group.free for group in memory_limits(cgroups, own))])
