"""Paths that Triton can use: it starts its Python models by a shell, with the paths unquoted."""

from __future__ import annotations

import re
from pathlib import Path


def path_problem(path: Path) -> str:
    """Returns "" or the sentence that says why Triton cannot start its Python models from there."""
    unfit = re.search(r"[^\w./+:,@%#=~^\[\]-]", str(path), re.ASCII)
    if not unfit:
        return ""
    return (
        f"{path} has {unfit[0]!r} in its name, and Triton starts its Python models by a shell that "
        "would misread it; move it to a path with no space, no quote and no letter beyond ASCII"
    )
