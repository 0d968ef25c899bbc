"""Safetensors files, mapped and checked: every byte after the header belongs to one tensor.

8 bytes of header length (little endian), a JSON header, then the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from host.console import BuildError
from host.json_document import LFS_POINTER, Values, read_json

DTYPE_BYTES = {"U8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4}
FETCH_AGAIN = "fetch the checkpoint again"  # for bytes that contradict the file's own header
QUANTIZE = "quantize the BF16 model with build/quantize.py"
# For wrong values in a whole file: no reader can tell damage from a wrong export.
AS_WRITTEN_OR_DAMAGED = (
    "compare the file's SHA-256 with the one that its maker states: fetch it again if they differ, "
    f"else {QUANTIZE}"
)
LONGEST_DTYPE = 16  # characters
INDEX = "model.safetensors.index.json"
SINGLE_SHARD = "model.safetensors"
SHARD_NAME = re.compile(r"[^/\0]{1,200}\.safetensors")

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: a read-only view of its bytes in the mapped file."""

    name: str
    dtype: str  # as in the safetensors header
    shape: tuple[int, ...]
    data: Bytes  # 1-D u8
    path: Path
    offset: int  # of the first byte in the file

    def scalar(self) -> float:
        """The value of a tensor that holds one F32."""
        return float(self.data.view(np.float32)[0])


def header_bytes(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """The start of a file whose tensors (name, dtype, shape) follow in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_shards(directory: Path) -> dict[str, StoredTensor]:
    """Map every tensor of the files that the index names, or of the only file.

    That includes tensors that the index omits: every runtime loads them. Raises `BuildError`.
    """
    tensors: dict[str, StoredTensor] = {}
    for path, names in shards(directory).items():
        found = read_safetensors(path)
        for name in names:
            if name not in found:
                raise BuildError(
                    f"{path} lacks the tensor {name} that {INDEX} places there; {FETCH_AGAIN}"
                )
        for name, tensor in found.items():
            if name in tensors:
                raise BuildError(
                    f"{path} and {tensors[name].path.name} both hold the tensor {name}; give a "
                    "checkpoint that stores each tensor once"
                )
            tensors[name] = tensor
    return tensors


def shards(directory: Path) -> dict[Path, list[str]]:
    """Shard -> the tensors that the index places in it; an empty list means all."""
    index = directory / INDEX
    if not index.exists():
        others = sorted(directory.glob("*.safetensors"))
        if others and not (directory / SINGLE_SHARD).exists():
            raise BuildError(
                f"{directory} has {others[0].name}, but no {INDEX} that says what its files hold; "
                "fetch that file too"
            )
        return {directory / SINGLE_SHARD: []}
    weight_map = Values(index, read_json(index)).part("weight_map")
    if not weight_map.document:
        raise BuildError(f"{index} places no tensor in a file; {FETCH_AGAIN}")
    placed: dict[Path, list[str]] = {}
    for name, file_name in weight_map.document.items():
        if not isinstance(file_name, str) or not SHARD_NAME.fullmatch(file_name):
            raise weight_map.wrong(name, "the name of a .safetensors file in the same folder")
        placed.setdefault(directory / file_name, []).append(name)
    return dict(sorted(placed.items()))


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Map one safetensors file; raises `BuildError` if it is missing, truncated or damaged."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except FileNotFoundError:
        raise BuildError(f"the shard {path} does not exist; {FETCH_AGAIN}") from None
    if mapped[: len(LFS_POINTER)] == LFS_POINTER:
        raise BuildError(
            f"{path} is a git LFS pointer, not the file; run 'git lfs pull' in {path.parent}"
        )
    header_end = 8 + int.from_bytes(mapped[:8], "little")
    if size < 8 or header_end > size:
        raise BuildError(f"{path} is truncated ({size} bytes); {FETCH_AGAIN}")
    try:
        header = json.loads(mapped[8:header_end])
        header.pop("__metadata__", None)
        content = np.frombuffer(mapped, np.uint8)[header_end:]
        tensors = {
            name: _stored(path, name, entry, content, header_end) for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BuildError(f"{path} has a damaged header ({error!r:.80}); {FETCH_AGAIN}") from error
    _check_ranges(path, tensors, header_end, size)
    return tensors


def _stored(
    path: Path, name: str, entry: dict[str, Any], content: Bytes, header_end: int
) -> StoredTensor:
    begin, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if not name.isprintable():
        raise ValueError(f"a tensor is called {name!r:.30}")
    if not isinstance(dtype, str) or len(dtype) > LONGEST_DTYPE or not dtype.isprintable():
        raise ValueError(f"{name} has the dtype {dtype!r:.20}")
    if any(type(number) is not int for number in (*shape, begin, end)) or min(shape, default=0) < 0:
        raise ValueError(f"{name} has shape {shape} from {begin} to {end}")
    if end > content.size:
        missing = end - content.size
        raise BuildError(
            f"{path} is truncated: {name} ends {missing} bytes after the file; {FETCH_AGAIN}"
        )
    if not 0 <= begin <= end:
        raise BuildError(f"{path}: {name} lies from byte {begin} to {end}; {FETCH_AGAIN}")
    if end - begin != math.prod(shape) * DTYPE_BYTES.get(dtype, -1) and dtype in DTYPE_BYTES:
        raise BuildError(
            f"{path}: {name} has {end - begin} bytes for {dtype} {list(shape)}; {FETCH_AGAIN}"
        )
    return StoredTensor(name, dtype, shape, content[begin:end], path, header_end + begin)


def _check_ranges(path: Path, tensors: dict[str, StoredTensor], start: int, size: int) -> None:
    """The format demands that the tensors fill the file from the header to its end."""
    end, before = start, "the header"
    for tensor in sorted(tensors.values(), key=lambda each: (each.offset, each.data.size)):
        if tensor.offset != end:
            relation = "overlaps" if tensor.offset < end else "leaves a gap behind"
            raise BuildError(
                f"{path}: {tensor.name} begins at byte {tensor.offset} and {relation} {before}, "
                f"but must begin at byte {end}; {FETCH_AGAIN}"
            )
        end, before = tensor.offset + tensor.data.size, tensor.name
    if end != size:
        raise BuildError(f"{path} has {size} bytes, its header accounts for {end}; {FETCH_AGAIN}")
