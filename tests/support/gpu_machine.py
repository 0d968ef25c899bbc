"""A machine with GPUs, as the build sees one: an `nvidia-smi` on PATH, and installed packages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

B200 = "NVIDIA B200, 10.0, 183359, 590.44.01"
RTX5090 = "NVIDIA GeForce RTX 5090, 12.0, 32607, 590.44.01"
H100 = "NVIDIA H100 80GB HBM3, 9.0, 81559, 580.159.04"
H200 = "NVIDIA H200, 9.0, 143771, 580.159.03"
T4 = "Tesla T4, 7.5, 15360, 580.159.03"
SMALL = "NVIDIA small, 12.0, 2048, 590.44.01"


def show_gpus(folder: Path, patch: pytest.MonkeyPatch, *gpus: str) -> None:
    """Let `nvidia-smi`, made in `folder`, answer with these lines."""
    folder.mkdir(exist_ok=True)
    tool = folder / "nvidia-smi"
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{gpu}'\n" for gpu in gpus))
    tool.chmod(0o755)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def add_distribution(folder: Path, name: str, version: str) -> None:
    """Make `folder` look as if this version of the package were installed there."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def capability(gpu: str) -> list[int]:
    """The compute capability in one of the lines above."""
    return [int(number) for number in gpu.split(", ")[1].split(".")]
