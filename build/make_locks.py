"""Lock the packages of each set-up: exact versions and hashes, within pyproject.toml's ranges.

`make lock` runs it; it needs a package index. Locked versions that still fit their range stay, or
with `--upgrade` all become the newest. The locks name no index, so that any index can serve them,
and are valid for Python 3.10 to 3.12.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from host.console import BuildError, run_script, say
from setup_environment import ALL, INSTALLER, LOCKS, ROOT, lock_of

# uv resolves for this version of Python and all later ones.
OLDEST_PYTHON = "3.10"
# The first has the packages of all others, and the others take its versions.
SETUPS = {
    ALL: ("server", "gateway", "fetch", "dev", "loadtest"),
    "server": ("server",),
    "gateway": ("gateway",),
    "fetch": ("fetch",),
    "loadtest": ("loadtest",),
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="the newest version of everything")
    parser.add_argument("--uv", default="uv", help="uv's executable")
    options = parser.parse_args()
    LOCKS.mkdir(exist_ok=True)
    more = ["--upgrade"] if options.upgrade else []
    _lock(options.uv, INSTALLER, ["--group", f"{ROOT}/pyproject.toml:{INSTALLER}", *more])
    for name, extras in SETUPS.items():
        arguments = [f"{ROOT}/pyproject.toml", "--group", f"{ROOT}/pyproject.toml:build"]
        for extra in extras:
            arguments += ["--extra", extra]
        if name != ALL:
            arguments += ["--constraints", str(lock_of(ALL))]
        _lock(options.uv, name, [*arguments, *more])


def _lock(uv: str, name: str, arguments: list[str]) -> None:
    command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON]
    command += ["--generate-hashes", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--no-annotate", "--no-header"]
    path = lock_of(name)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        if path.exists():
            made.write_bytes(path.read_bytes())  # uv keeps what it finds in its output
        if subprocess.call([*command, *arguments, "--output-file", str(made)], cwd=ROOT) != 0:
            raise BuildError(f"{path.name} could not be made (uv says why above)")
        path.write_bytes(made.read_bytes())
    pinned = [line for line in path.read_text(encoding="utf-8").splitlines() if line[0] != " "]
    say(f"{path.relative_to(ROOT)}: {len(pinned)} versions")


if __name__ == "__main__":
    run_script(main)
