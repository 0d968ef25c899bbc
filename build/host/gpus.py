"""The machine's NVIDIA GPUs, and which runtime serves an NVFP4 checkpoint on which GPU.

Compute capabilities and what runs on them: TensorRT-LLM's support matrix (NVFP4 needs the FP4
tensor cores of Blackwell), vLLM's and SGLang's Marlin kernel (4-bit weights, BF16 arithmetic).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

BLACKWELL = ("10.0", "10.3", "12.0", "12.1")  # with FP4 tensor cores
MARLIN_SINCE = (8, 0)  # Ampere
NVIDIA_SMI_S = 20.0
# Compute capability, product names, runtimes, and how they compute.
FAMILIES = (
    ("10.0", "B200, GB200", "tensorrt_llm, vllm, sglang", "FP4 tensor cores"),
    ("10.3", "B300, GB300", "tensorrt_llm, vllm, sglang", "FP4 tensor cores"),
    ("12.0", "RTX PRO 6000, RTX 5090", "tensorrt_llm, vllm, sglang", "FP4 tensor cores"),
    ("12.1", "GB10 (DGX Spark)", "tensorrt_llm, vllm, sglang", "FP4 tensor cores"),
    ("9.0", "H100, H200", "vllm, sglang", "Marlin: 4-bit weights, BF16 arithmetic"),
    ("8.x", "A100, A10, L40S, RTX 3090, RTX 4090", "vllm, sglang", "Marlin, as above"),
    ("none", "any x86-64 CPU", "openvino", "4-bit weights, BF16 or F32 arithmetic"),
)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU, as nvidia-smi describes it."""

    name: str
    compute_capability: str  # "10.0"
    memory_mib: int
    driver: str

    @property
    def memory_bytes(self) -> int:
        """Its whole memory."""
        return self.memory_mib * 2**20

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability as numbers."""
        major, _, minor = self.compute_capability.partition(".")
        return int(major), int(minor)

    @property
    def has_fp4(self) -> bool:
        """Whether it has tensor cores for NVFP4."""
        return self.compute_capability in BLACKWELL

    @property
    def has_marlin(self) -> bool:
        """Whether vLLM's and SGLang's Marlin kernel runs on it."""
        return self.capability >= MARLIN_SINCE

    def __str__(self) -> str:
        return f"{self.name} (sm{self.compute_capability.replace('.', '')})"


def find_gpus() -> list[Gpu]:
    """The NVIDIA GPUs; [] without a driver."""
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    try:
        out = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return list(_parse(out))


def _parse(table: str) -> Iterator[Gpu]:
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4:
            name, capability, memory, driver = cells
            # GB10 shares the machine's memory and answers "[N/A]".
            yield Gpu(name, capability, int(memory) if memory.isdigit() else 0, driver)


def what_fits() -> str:
    """A table: which runtime serves an NVFP4 checkpoint on which hardware."""
    rows = [("compute capability", "hardware", "--runtime", "computes with"), *FAMILIES]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
