"""How figures are written on the terminal, in the report and in the web UI."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def milliseconds(seconds: float | None) -> str:
    """`1,234.5`, with more decimals for small values; `-` without a value.

    >>> milliseconds(1.2345), milliseconds(0.009876), milliseconds(0.0001234), milliseconds(None)
    ('1,234.5', '9.88', '0.123', '-')
    """
    if seconds is None:
        return "-"
    digits = 1 if abs(seconds) >= 0.01 else 2 if abs(seconds) >= 0.001 else 3
    return f"{seconds * 1e3:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """With its unit: `12.3 ms`, `2.79 s`, or `-`."""
    if seconds is None:
        return "-"
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{milliseconds(seconds)} ms"


def number(value: float | None, digits: int = 2) -> str:
    """`1,234.50`, or `-`."""
    return "-" if value is None else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """`99.5%`, or `-`."""
    return "-" if value is None else f"{value:.1%}"


def verdict(held: bool) -> str:
    """The verdict on an objective."""
    return "held" if held else "BROKEN"


def when(header: Mapping[str, Any]) -> str:
    """The run's start, UTC."""
    started = header.get("started_unix")
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(started)) if started else "unknown"


def described(served: Mapping[str, str]) -> list[str]:
    """["runtime openvino", "checkpoint demo (sha256 c33fc1d48829)", "triton 2.51.0"].

    The engine's other facts, such as "precision f32", come in between.
    """
    rest = dict(served)
    checkpoint = rest.pop("model", "")
    if digest := rest.pop("checkpoint_sha256", ""):
        checkpoint = f"{checkpoint} (sha256 {digest[:12]})".strip()
    server, runtime = rest.pop("server", ""), rest.pop("runtime", "")
    return [
        *([f"runtime {runtime}"] if runtime else []),
        *([f"checkpoint {checkpoint}"] if checkpoint else []),
        *(f"{name.replace('_', ' ')} {value}" for name, value in rest.items()),
        *([server] if server else []),
    ]
