"""Writes an OpenVINO model to disk from mapped pages: with progress, and stoppable at any moment.

`openvino.serialize` writes both files in one call that can neither be interrupted nor report, and
says "iostream error" for a full disk. So it writes the XML alone here, and the weights file is laid
out and written by this module: every constant once, at a multiple of 64 bytes.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import openvino as ov
from checkpoints.nvfp4 import Bytes, Checkpoint
from host.console import BuildError, Phase

from engines.openvino_alarm import with_alarm
from engines.openvino_graph import build_graph

ALIGNMENT = 64  # bytes; a cache line
CHUNK_BYTES = 16 * 2**20


def write_openvino_model(checkpoint: Checkpoint, max_seq_len: int, folder: Path) -> None:
    """Write `openvino_model.xml` and `openvino_model.bin` into `folder`."""
    with Phase("building the graph"):
        checkpoint = with_alarm(checkpoint)
        model = build_graph(checkpoint, max_seq_len)
        xml = folder / "openvino_model.xml"
        ov.serialize(model, str(xml), "/dev/null")
        sources = dict(_constants(model, checkpoint))
        document = ElementTree.parse(xml)
        plan = _lay_out(document, sources)
        document.write(xml, encoding="utf-8", xml_declaration=True)
    total = sum(data.size for _, data in plan)
    phase = Phase(f"writing the weights, {total:,} bytes", total)
    with phase, (folder / "openvino_model.bin").open("wb") as file:
        for offset, data in plan:
            file.write(bytes(offset - file.tell()))
            _write(file, data, phase)


def _constants(model: ov.Model, checkpoint: Checkpoint) -> Iterator[tuple[str, Bytes]]:
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            name = node.get_friendly_name()
            stored = checkpoint.tensors.get(name)
            yield name, stored.data if stored else _bytes_of(node)


def _bytes_of(node: Any) -> Bytes:
    return np.frombuffer(np.ascontiguousarray(node.data).tobytes(), np.uint8)


def _lay_out(
    document: ElementTree.ElementTree[ElementTree.Element], sources: dict[str, Bytes]
) -> list[tuple[int, Bytes]]:
    """Give each Const of the XML a place in the weights file; returns (offset, bytes) in order."""
    plan: list[tuple[int, Bytes]] = []
    end = 0
    for layer in document.iter("layer"):
        if layer.get("type") != "Const":
            continue
        data = layer.find("data")
        source = sources.pop(layer.get("name", ""), None)
        if data is None or source is None or data.get("size") != str(source.size):
            raise BuildError(
                f"openvino {ov.__version__} wrote the constant {layer.get('name')} in an unknown "
                "form; install the release that pyproject.toml names"
            )
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        data.set("offset", str(offset))
        plan.append((offset, source))
        end = offset + source.size
    return plan


def _write(file: BinaryIO, data: Bytes, phase: Phase) -> None:
    for start in range(0, data.size, CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        file.write(chunk.data)
        phase.advance(chunk.size)
