"""Where this machine's tritonserver is, and the environment in which it and its Python stubs run.

It looks in two places: on PATH (NVIDIA's container, which needs nothing else) and in the PyPI
package `nvidia-pytriton` (server 2.51 with the Python backend). For the package this module adds
two things: a backend folder in which the stub for the running Python lies beside the backend's
library, and a library path on which the stub finds libpython.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SUPPORTED_PYTHONS = ("3.10", "3.11", "3.12")
LIBPYTHON = f"libpython{PYTHON}.so.1.0"


class TritonNotFound(RuntimeError):
    """This machine cannot run tritonserver; the message names what is missing and its remedy."""


@dataclass(frozen=True)
class TritonInstallation:
    """A tritonserver that can be started; `environment` is added to the caller's own."""

    binary: Path
    origin: str  # for people: "PATH" or "nvidia-pytriton 0.7.0"
    backend_directory: Path | None = None  # None: the server's own default
    environment: dict[str, str] = field(default_factory=dict)


def find_triton(staging_directory: Path) -> TritonInstallation:
    """Prefer the server on PATH, else stage the one in nvidia-pytriton; raises TritonNotFound."""
    on_path = shutil.which("tritonserver")
    if on_path:
        return TritonInstallation(Path(on_path), "PATH")
    return _stage_pytriton(staging_directory)


def _stage_pytriton(staging_directory: Path) -> TritonInstallation:
    package = _pytriton_package()
    server = package / "tritonserver"
    stub = server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if PYTHON not in SUPPORTED_PYTHONS or not stub.is_file():
        raise TritonNotFound(
            f"Python must be one of {', '.join(SUPPORTED_PYTHONS)}, not {PYTHON}; make another "
            "environment with 'make clean-venv demo PYTHON=python3.11'"
        )
    version = importlib.metadata.version("nvidia-pytriton")
    backends = staging_directory / f"backends-{version}-python{PYTHON}"
    # Not __pycache__: an installer may or may not write it, and Python makes one beside the links.
    files = [path for path in (server / "backends" / "python").iterdir() if path.is_file()]
    _link_backend([*files, stub], backends / "python")
    libraries = [str(package.parent / "nvidia_pytriton.libs"), *_libpython_folder()]
    return TritonInstallation(
        server / "bin" / "tritonserver",
        f"nvidia-pytriton {version}",
        backends,
        {
            "LD_LIBRARY_PATH": _joined(libraries, "LD_LIBRARY_PATH"),
            # The stub embeds Python, which looks for its packages beside the python3 of PATH.
            "PATH": _joined([str(Path(sys.prefix) / "bin")], "PATH"),
        },
    )


def _pytriton_package() -> Path:
    # find_spec does not import the package, which takes a second and warns about its logging.
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonNotFound(
            "there is no tritonserver: none is on PATH and the package nvidia-pytriton is not "
            f"installed in {sys.prefix}; run 'make install'"
        )
    return Path(spec.origin).parent


def _link_backend(sources: list[Path], folder: Path) -> None:
    """Put links to `sources` into `folder`; safe when several servers start at once."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        link = folder / source.name
        if link.is_symlink() and link.readlink() == source:
            continue
        aside = folder / f".{source.name}.{os.getpid()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(source)
        aside.replace(link)


def _libpython_folder() -> list[str]:
    """The folder to add to LD_LIBRARY_PATH so that the stub finds libpython; [] if none is needed.

    This interpreter's own installation comes first: a stub that runs another build's libpython
    would look for this environment's compiled packages with the wrong standard library.
    """
    config = sysconfig.get_config_vars()
    libdir = Path(config.get("LIBDIR") or "/usr/lib")
    candidates = [
        libdir,
        libdir / str(config.get("MULTIARCH") or "."),
        Path(sys.base_prefix) / "lib",
    ]
    for folder in candidates:
        if (folder / LIBPYTHON).is_file():
            return [str(folder)]
    try:
        ctypes.CDLL(LIBPYTHON)
    except OSError:
        raise TritonNotFound(
            f"{LIBPYTHON} was not found, and Triton's Python backend needs it; "
            f"run 'apt-get install libpython{PYTHON}'"
        ) from None
    return []


def _joined(paths: list[str], variable: str) -> str:
    return os.pathsep.join([*paths, *filter(None, [os.environ.get(variable)])])
