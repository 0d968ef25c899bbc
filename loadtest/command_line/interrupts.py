"""Ctrl-C, and the port between a master and its workers: where Locust answers with a traceback."""

from __future__ import annotations

import argparse
import os
import signal
import socket
from collections.abc import Callable, Sequence

import gevent
from figures.slo import EXIT_LEFT as EXIT_LEFT
from output.terminal import say

NOTHING = "stopped before the load began: nothing was measured"
DEFAULT_PORT = 5557  # Locust's


class StoppedEarly(BaseException):
    """The run was stopped before its load began. No Exception: no request is to catch it."""


def leave_on_interrupt(before: Callable[[], None], early: Callable[[], str] = lambda: "") -> None:
    """From now on Ctrl-C calls `before()`, and then lets Locust end as it does. Twice: at once.

    `early()`: where Locust does not yet expect it, the sentence to leave with; else "".

    Python raises KeyboardInterrupt in whatever greenlet runs, a request's as well as the one that
    gathers the results; here the greenlet that Locust waits in gets it, and no other. To be called
    in that one.
    """
    waiting = gevent.getcurrent()
    told: list[bool] = []

    def interrupted() -> None:
        told.append(True)
        if len(told) > 1:
            os._exit(EXIT_LEFT)
        before()
        if sentence := early():
            say(sentence)
            gevent.kill(waiting, SystemExit(EXIT_LEFT))
        else:
            gevent.kill(waiting, KeyboardInterrupt)

    gevent.signal_handler(signal.SIGINT, interrupted)


def master_port_problem(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> str:
    """`--processes` gets a free port, so that two load tests go on side by side.

    Returns "" or the sentence on what is wrong: a `--master` whose port is taken, too few of them.
    """
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--master", "--worker"):
        known.add_argument(name, action="store_true")
    for name in ("--processes", "--master-port", "--master-bind-port"):
        known.add_argument(name, type=int)
    try:
        given, _ = known.parse_known_args(arguments)
    except argparse.ArgumentError:  # Locust's parser finds it too
        return ""
    if given.processes is not None and given.processes < -1:
        return f"--processes is {given.processes}, must be how many workers, -1 for one a core"
    if given.processes and not (given.worker or given.master_port or given.master_bind_port):
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        parser.set_defaults(master_port=port, master_bind_port=port)
    if not given.master:
        return ""
    port = given.master_bind_port or DEFAULT_PORT
    with socket.socket() as wanted:
        wanted.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            wanted.bind(("", port))
        except OSError as error:
            return f"the master's port {port} cannot be had, {error.strerror}: --master-bind-port"
    return ""
