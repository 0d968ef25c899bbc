"""Ctrl-C, and the master's port: where Locust itself would print a traceback."""

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
    """The run was stopped before its load began. Not an Exception: no request may catch it."""


def leave_on_interrupt(before: Callable[[], None], early: Callable[[], str] = lambda: "") -> None:
    """Have Ctrl-C call `before()` and then end Locust; a second Ctrl-C ends the process at once.

    `early()` returns the sentence to end with if Locust does not expect an interrupt yet, else "".

    Python raises KeyboardInterrupt in whichever greenlet runs, which may be the one that collects
    the results. Here only the greenlet that Locust waits in gets it: call this function there.
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
    """Give `--processes` a free port, so that two load tests can run side by side.

    Returns "", or what is wrong: the port of a `--master` is taken, or too few processes.
    """
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--master", "--worker"):
        known.add_argument(name, action="store_true")
    for name in ("--processes", "--master-port", "--master-bind-port"):
        known.add_argument(name, type=int)
    try:
        given, _ = known.parse_known_args(arguments)
    except argparse.ArgumentError:  # Locust's parser reports it
        return ""
    if given.processes is not None and given.processes < -1:
        return f"--processes must be how many workers, or -1 for one a core, not {given.processes}"
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
            return (
                f"the master's port {port} cannot be opened, {error.strerror}: --master-bind-port"
            )
    return ""
