"""The page of `python loadtest/locustfile.py --help`; needs neither Locust nor a server.

`locust -f loadtest/locustfile.py --help` cannot print it: Locust answers `--help` before it loads
the file whose options these are.
"""

from __future__ import annotations

import argparse

from command_line.arguments import add_arguments
from command_line.options import DEFAULT_DURATION_S, DEFAULT_URL, DRAIN_S

DESCRIPTION = "Load a running server, and measure it. Every option of Locust works as well."
EXAMPLES = """examples:
  a minute of load at 4 requests/s, prompts and answers of 128 tokens:
    python loadtest/locustfile.py --headless -H localhost:8001 -t 60s --rate 4 --workload 128/128
  the highest rate that holds two objectives:
    python loadtest/locustfile.py --headless --find-max-rate --slo "ttft:p99<500ms,tpot:p99<30ms"
  8 users, each of whom waits for its answer before it asks again:
    python loadtest/locustfile.py --headless --closed-loop -u 8 -t 60s
  a mix of workloads, from four processes:
    python loadtest/locustfile.py --headless --workload mlperf-server=7,chat=3 --processes 4
  one table and one plot of several rates:
    python loadtest/sweep.py --rates 1,2,4,8 -t 60s
  in the browser, at http://localhost:8089:
    python loadtest/locustfile.py -H localhost:8001

`locust -f loadtest/locustfile.py OPTIONS` is the same program; its --help lists Locust's options
alone. `make loadtest LOADTEST_FLAGS="--rate 4"` runs it headless. The README explains the results
and the exit codes.
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Adds `(default: X)` unless the text already names the default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        missing = action.default not in (None, "", argparse.SUPPRESS) and action.nargs != 0
        return f"{text} (default: %(default)s)" if missing and "default:" not in text else text


def help_page() -> str:
    """The whole page, as wide as the terminal."""
    parser = argparse.ArgumentParser(
        prog="python loadtest/locustfile.py",
        usage="%(prog)s [OPTION ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=_Formatter,
        add_help=False,
    )
    _add_locusts(parser.add_argument_group("Locust's own, as used here"))
    add_arguments(parser)
    return parser.format_help()


def _add_locusts(group: argparse._ArgumentGroup) -> None:
    """For display only: Locust adds and reads these options itself."""
    group.add_argument("-h", "--help", action="store_true", help="print this page and end")
    group.add_argument(
        "-H",
        "--host",
        metavar="HOST:PORT",
        default=DEFAULT_URL,
        help="the server's gRPC endpoint",
    )
    group.add_argument(
        "-t",
        "--run-time",
        metavar="TIME",
        default=f"{DEFAULT_DURATION_S}s",
        help="how long to send, warm-up included: 90, 60s, 10m, 1h30m; --replay alone sends "
        "all of the recording",
    )
    group.add_argument(
        "--headless", action="store_true", help="start at once, without the web UI, and end"
    )
    group.add_argument(
        "-u", "--users", metavar="N", type=int, default=1, help="users of a --closed-loop"
    )
    group.add_argument(
        "-s",
        "--stop-timeout",
        metavar="SECONDS",
        default=f"{DRAIN_S:g}",
        help="how long requests in flight at the end may take; later ones count as Unfinished",
    )
    _add_locusts_workers(group)


def _add_locusts_workers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--processes",
        metavar="N",
        type=int,
        help="share the load among N processes (-1: one a core)",
    )
    group.add_argument(
        "--master, --worker",
        dest="roles",
        action="store_true",
        help="share it among hosts: one --master, and --worker --master-host HOST on the others",
    )
    group.add_argument("--web-port", metavar="PORT", type=int, default=8089, help="of the web UI")
