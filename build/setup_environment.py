"""Make .venv and install what the project pins into it; does nothing if that is done.

Run by the Makefile with the machine's own Python, before anything is installed, so it uses the
standard library alone and keeps to syntax that an unsupported Python can still read.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SUPPORTED = ((3, 10), (3, 11), (3, 12))


def main():  # type: () -> int
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--extras", default="server", help="comma-separated, as in pyproject.toml")
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"))
    options = parser.parse_args()
    python = os.path.join(options.venv, "bin", "python")
    wanted = sorted(options.extras.split(","))
    if not os.path.exists(python):
        if not _make_environment(options.venv):
            return 1
    stamp_file = os.path.join(options.venv, "installed.json")
    installed = _read_stamp(stamp_file)
    if set(wanted) <= set(installed):
        return 0
    extras = sorted(set(wanted) | set(installed))
    started = time.time()
    print("install: packages of [{}] into {} (once)".format(",".join(extras), _short(options.venv)), flush=True)
    if _install(python, extras) != 0:
        return _fail("the packages could not be installed (pip says why above); run the same command again")
    _write_stamp(stamp_file, extras)
    print("install: {:.1f} s".format(time.time() - started), flush=True)
    return 0


def _make_environment(folder):  # type: (str) -> bool
    if sys.version_info[:2] not in SUPPORTED:
        allowed = ", ".join("{}.{}".format(*version) for version in SUPPORTED)
        _fail(
            "Python {}.{} is not supported, allowed is one of {}; name one with 'make demo PYTHON=python3.11'".format(
                sys.version_info[0], sys.version_info[1], allowed
            )
        )
        return False
    # The interpreter appears last and whole: --without-pip first would leave a half environment.
    if subprocess.call([sys.executable, "-m", "venv", "--clear", folder]) != 0:
        _fail(
            "Python's venv module could not make {}; run 'apt-get install python{}.{}-venv' and the same "
            "command again".format(_short(folder), sys.version_info[0], sys.version_info[1])
        )
        return False
    return True


def _install(python, extras):  # type: (str, list[str]) -> int
    command = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    if not sys.stdout.isatty():
        command.append("--quiet")
    return subprocess.call(command + ["--editable", "{}[{}]".format(ROOT, ",".join(extras))])


def _pins():  # type: () -> str
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _read_stamp(path):  # type: (str) -> list[str]
    """The extras that are installed as pyproject.toml now pins them."""
    try:
        with open(path) as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return []
    return list(stamp["extras"]) if stamp.get("pins") == _pins() else []


def _write_stamp(path, extras):  # type: (str, list[str]) -> None
    with open(path + ".partial", "w") as file:
        json.dump({"pins": _pins(), "extras": extras}, file)
    os.rename(path + ".partial", path)


def _short(path):  # type: (str) -> str
    return os.path.relpath(path, os.getcwd())


def _fail(sentence):  # type: (str) -> int
    print("error: " + sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
