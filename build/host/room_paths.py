"""Puts the rooms' folders on `sys.path`: the build reads with the very modules that serve.

Nothing of the project is installed in the server, and the rooms import their own siblings. Imported
for that effect alone, before any of their modules.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
ROOMS = ("tensorrt_llm", "preprocessing", "postprocessing")

sys.path += [
    folder for folder in (str(REPOSITORY / room / "1") for room in ROOMS) if folder not in sys.path
]
