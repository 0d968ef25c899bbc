"""Requests before they are serialized, and the entries that they can be sent to."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from contract.write_table import read_configs
from tritonclient.grpc import model_config_pb2

NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1",
    "INT16": "i2", "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
}  # fmt: skip
CONTENTS = {
    "BOOL": "bool_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip


@dataclass
class Tensor:
    """An input as it will be sent; it may contradict the configuration."""

    name: str
    datatype: str
    shape: list[int]
    values: list[Any]  # flat
    raw: bytes | None = None  # sent instead of the values
    parameters: dict[str, Any] = field(default_factory=dict)

    def packed(self) -> bytes:
        """The values as raw contents."""
        if self.raw is not None:
            return self.raw
        if self.datatype == "BYTES":
            return b"".join(struct.pack("<I", len(value)) + value for value in self.values)
        kind = np.dtype(NUMPY.get(self.datatype, "u1"))
        with np.errstate(all="ignore"):
            if kind.kind in "iu":
                mask = 2 ** (8 * kind.itemsize) - 1
                unsigned = [int(value) & mask for value in self.values]
                return np.array(unsigned, f"u{kind.itemsize}").tobytes()
            return np.array(self.values, np.float64).astype(kind).tobytes()


@dataclass
class Draft:
    """A request before it is serialized."""

    model: str  # whose inputs it has
    target: str  # the model that it is sent to
    version: str
    rows: int
    tensors: list[Tensor]
    parameters: dict[str, Any]
    outputs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    id: str = ""
    typed: bool = False  # values in `contents` fields, not raw
    raw_change: int = 0  # the number of raw contents minus that of inputs: 1, 0 or -1
    binary_change: int = 0  # error of HTTP's binary_data_size, in bytes
    mangle: Callable[[bytes], bytes] = bytes
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"

    @property
    def is_garbled(self) -> bool:
        """Whether the server may be unable to read the request."""
        return self.mangle is not bytes or bool(self.headers) or self.binary_change != 0

    def find(self, name: str) -> Tensor | None:
        """The input of that name, if it is in the request."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)


class Entry(NamedTuple):
    """A way into the server."""

    model: str
    wire: str  # stream, unary: gRPC; infer, generate, generate_stream: HTTP

    @property
    def is_http(self) -> bool:
        """Whether the request is a JSON body."""
        return self.wire not in ("stream", "unary")


@dataclass(frozen=True)
class Case:
    """One request, ready to send. `expect` is "answer", "refusal" or "either"."""

    seed: int
    index: int
    entry: Entry
    what: tuple[str, ...]  # the changes that were made
    expect: str
    sequences: int  # in the answer, if `expect` is "answer"
    named: bool  # whether an error's message must begin with its code
    payload: bytes
    path: str
    headers: dict[str, str]
    method: str
    leave_after: int | None  # the client leaves after so many responses

    def __str__(self) -> str:
        return f"{self.entry.model} {self.entry.wire}: {', '.join(self.what) or 'nothing changed'}"


ENTRIES = {
    Entry("ensemble", "stream"): 6,
    Entry("ensemble", "generate"): 3,
    Entry("ensemble", "generate_stream"): 3,
    Entry("ensemble", "infer"): 1,
    Entry("ensemble", "unary"): 1,
    Entry("tensorrt_llm_bls", "unary"): 4,
    Entry("tensorrt_llm_bls", "infer"): 4,
    Entry("tensorrt_llm_bls", "generate"): 2,
    Entry("tensorrt_llm_bls", "stream"): 1,
    Entry("preprocessing", "unary"): 4,
    Entry("preprocessing", "infer"): 1,
    Entry("tensorrt_llm", "stream"): 8,
    Entry("tensorrt_llm", "generate"): 2,
    Entry("postprocessing", "unary"): 3,
    Entry("postprocessing", "infer"): 1,
}
ALL_ENTRIES, WEIGHTS = list(ENTRIES), list(ENTRIES.values())
CONFIGS = read_configs()


def datatype_of(tensor: Any) -> str:
    """Triton's name on the wire of a configured tensor's type."""
    name: str = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


INPUTS = {
    model: {tensor.name: (datatype_of(tensor), list(tensor.dims)) for tensor in config.input}
    for model, config in CONFIGS.items()
}
OUTPUTS = {
    model: {tensor.name: (datatype_of(tensor), list(tensor.dims)) for tensor in config.output}
    for model, config in CONFIGS.items()
}
