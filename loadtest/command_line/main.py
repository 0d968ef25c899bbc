"""`python loadtest/locustfile.py`: as `locust -f loadtest/locustfile.py`, but for `--help`.

No module here may be imported before Locust that Locust's gevent has to patch.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from figures.slo import EXIT_BAD_INPUT


def run(locustfile: str) -> NoReturn:
    """Does what the command line asks for, and ends the process."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        from command_line.help_page import help_page

        print(help_page(), end="")
        sys.exit(0)
    # Until there is a load, which Ctrl-C ends in good order: at once, and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.argv[:] = ["locust", "-f", locustfile, *arguments]
    try:
        from locust.main import main
    except ModuleNotFoundError as error:
        sys.exit(_without(error))
    main()  # type: ignore[no-untyped-call]
    sys.exit(0)


def _without(error: ModuleNotFoundError) -> int:
    print(
        f"error: {sys.executable} has no package {error.name!r}: `make loadtest` installs what the "
        "load test needs into .venv, whose .venv/bin/python runs this file",
        file=sys.stderr,
    )
    return EXIT_BAD_INPUT
