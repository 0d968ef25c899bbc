"""`python loadtest/locustfile.py`: like `locust -f loadtest/locustfile.py`, except for `--help`.

Import nothing here, before Locust, that Locust's gevent has to patch.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

from figures.slo import EXIT_BAD_INPUT


def run(locustfile: str) -> NoReturn:
    """Do what the command line says, and end the process."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        from command_line.help_page import help_page

        print(help_page(), end="")
        sys.exit(0)
    # Until the load begins, Ctrl-C ends the process at once, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.argv[:] = ["locust", "-f", locustfile, *arguments]
    try:
        from locust.main import main
    except ModuleNotFoundError as error:
        print(f"error: {missing_package(error)}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    main()  # type: ignore[no-untyped-call]
    sys.exit(0)


_missing: list[ModuleNotFoundError] = []


@contextlib.contextmanager
def script_imports(name: str) -> Iterator[None]:
    """`with script_imports(__name__):` around a script's imports that need installed packages.

    Without those packages `--help` still works; `check_imports` raises what the imports lacked.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if name != "__main__":
            raise
        _missing.append(error)


def check_imports() -> None:
    """Raise the ModuleNotFoundError of the script's imports, if there was one."""
    if _missing:
        raise _missing[0]


def missing_package(error: ModuleNotFoundError) -> str:
    """The sentence for a Python without the load test's packages."""
    return (
        f"{sys.executable} has no package {error.name!r}: `make loadtest` installs what the load "
        "test needs into .venv, whose .venv/bin/python runs this file"
    )
