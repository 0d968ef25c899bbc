"""Strict mypy over the whole project.

Every model's door is called model.py, and one mypy run cannot hold two modules of one name: so one
run for everything else, and one for each door.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("build", "client", "loadtest", "tests")


def main() -> int:
    """Returns 0 if every run is clean."""
    doors = sorted((ROOT / "model_repository").glob("*/1/model.py"))
    rooms = [
        path
        for path in sorted((ROOT / "model_repository").rglob("*.py"))
        if path not in doors and "engine" not in path.parts
    ]
    files = [str(ROOT / name) for name in PACKAGES] + [str(path) for path in rooms]
    runs = [files, *([str(door)] for door in doors)]
    codes = [subprocess.call([sys.executable, "-m", "mypy", *run], cwd=ROOT) for run in runs]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
