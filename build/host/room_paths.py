"""Puts the rooms' folders on `sys.path`: the build uses the modules that serve.

The rooms are not installed packages, and their modules import their siblings. Import this module
before any of theirs.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
ROOMS = ("tensorrt_llm", "preprocessing", "postprocessing")

sys.path += [
    folder for folder in (str(REPOSITORY / room / "1") for room in ROOMS) if folder not in sys.path
]
