"""Damage to a written checkpoint: to its header, tensors or bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints.nvfp4 import open_checkpoint
from checkpoints.safetensors_file import StoredTensor

Edit = Callable[[Path], object]


def rewrite_header(
    folder: Path, change: Callable[[dict[str, Any]], object], name: str = "model.safetensors"
) -> None:
    """Change the header of the shard `name`; the tensors' bytes stay."""
    shard = folder / name
    data = shard.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def without(*suffixes: str) -> Edit:
    """Remove the tensors of those names, and their bytes."""

    def edit(folder: Path) -> None:
        tensors = open_checkpoint(folder).tensors
        kept = [tensor for name, tensor in tensors.items() if not name.endswith(suffixes)]
        (folder / "model.safetensors").write_bytes(one_file(kept))

    return edit


def one_file(tensors: Iterable[StoredTensor]) -> bytes:
    """The bytes of a safetensors file with the tensors."""
    header: dict[str, Any] = {}
    content = b""
    for tensor in tensors:
        start, content = len(content), content + tensor.data.tobytes()
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
        header[tensor.name]["data_offsets"] = [start, len(content)]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def with_copy_of(tensors: dict[str, StoredTensor], name: str, copy: str) -> bytes:
    """Store one tensor under a second name too."""
    return one_file([*tensors.values(), replace(tensors[name], name=copy)])


def store(name: str, at: int, data: bytes) -> Edit:
    """Overwrite bytes of a tensor from its byte `at` on."""

    def edit(folder: Path) -> None:
        tensor = open_checkpoint(folder).tensors[name]
        assert at + len(data) <= tensor.data.size
        with tensor.path.open("r+b") as file:
            file.seek(tensor.offset + at)
            file.write(data)

    return edit


def scalar(value: float, *names: str) -> Edit:
    """Write the value to the F32 scalars of those names."""

    def edit(folder: Path) -> None:
        for name in names:
            store(name, 0, np.float32(value).tobytes())(folder)

    return edit


def zeros(name: str, begin: float, end: float) -> Edit:
    """Zero that part of the tensor (from 0 to 1), as if it was never written."""

    def edit(folder: Path) -> None:
        size = open_checkpoint(folder).tensors[name].data.size
        first, last = int(begin * size) // 8 * 8, int(end * size) // 8 * 8
        store(name, first, bytes(last - first))(folder)

    return edit


def swap_scales(folder: Path, only: str = "") -> None:
    """Swap input_scale and weight_scale_2."""
    tensors = open_checkpoint(folder).tensors
    for name, tensor in tensors.items():
        if name.endswith(".weight_scale_2") and name.startswith(only):
            other = name.replace("weight_scale_2", "input_scale")
            first, second = tensor.data.tobytes(), tensors[other].data.tobytes()
            store(name, 0, second)(folder)
            store(other, 0, first)(folder)
