"""Where torch computes, and whether its memory will do."""

from __future__ import annotations

import torch
from engines.engine_json import available_bytes
from host.console import BuildError

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one; raises `BuildError` for a device that is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise BuildError(
            f"--device is cuda, torch {torch.__version__} sees no CUDA GPU; give --device cpu, or "
            "look at 'nvidia-smi' and at which torch is installed"
        )
    return torch.device(name)


def check_memory(device: torch.device, needed: int, purpose: str) -> None:
    """Raise `BuildError` unless `needed` bytes of the device's memory are free."""
    if device.type == "cuda":
        free, place = int(torch.cuda.mem_get_info(device)[0]), torch.cuda.get_device_name(device)
    else:
        free, place = available_bytes(), "this machine"
    if needed > free:
        raise BuildError(
            f"{purpose} needs {needed / 1e9:.1f} GB of memory and {place} has {free / 1e9:.1f} GB "
            "free; free memory, or quantize on a machine or GPU that has more"
        )
