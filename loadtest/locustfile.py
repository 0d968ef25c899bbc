"""The load test's entry: `make loadtest`, or `locust -f loadtest/locustfile.py`.

`python loadtest/locustfile.py --help` lists the options; without it, this file is Locust itself.
rounds/master.py runs the test; sending/load_round.py sends the load, in a process beside each
worker.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # Locust loads this file once more, by another name
    from command_line import main

    main.run(__file__)

import locust  # first: it patches the standard library with gevent  # isort: split
import locust.runners

ROOT = Path(__file__).resolve().parent.parent
# Locust forgets the file's folder after the import, and a clone has no package installed.
sys.path[:0] = [str(ROOT / "loadtest"), str(ROOT / "client")]

from command_line.arguments import add_arguments, command_line, together  # noqa: E402
from command_line.interrupts import NOTHING, leave_on_interrupt, master_port_problem  # noqa: E402
from command_line.options import OptionError  # noqa: E402
from command_line.wrong_options import refuse_plainly  # noqa: E402
from figures.slo import EXIT_BAD_INPUT  # noqa: E402
from locust import User, constant, events, task  # noqa: E402
from locust.runners import MasterRunner, WorkerRunner  # noqa: E402
from output import web_tab  # noqa: E402
from rounds.master import Master  # noqa: E402
from rounds.worker import Worker  # noqa: E402
from rounds.workers import HEARTBEATS  # noqa: E402
from sending.sender_process import SenderProcess  # noqa: E402

locust.runners.HEARTBEAT_LIVENESS = HEARTBEATS
WORKERS: dict[str, Worker] = {}  # this process's one, under ""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: Any) -> None:
    add_arguments(parser)
    refuse_plainly(parser, _refuse)
    if problem := master_port_problem(parser, sys.argv[1:]):
        _refuse(problem)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _attach(environment: Any, runner: Any, **_: Any) -> None:
    """Locust has forked the processes of `--processes` by now: each gets its own sender."""
    sender = SenderProcess()
    environment.events.quitting.add_listener(lambda **_: sender.close())  # Locust calls it last
    if not isinstance(runner, MasterRunner):
        worker = WORKERS[""] = Worker(environment, sender)
        environment.events.quitting.add_listener(lambda **_: worker.leave())
        if isinstance(runner, WorkerRunner):
            # A terminal's Ctrl-C reaches the master too, which ends the round. A child that ends
            # before that counts as a dead worker.
            child = environment.parsed_options.processes
            leave_on_interrupt(worker.wait if child else lambda: None)
    if not isinstance(runner, WorkerRunner):
        _conduct(environment, sender)
    # Last: starting lets other greenlets run, and a worker must be listening by then.
    sender.start()


def _conduct(environment: Any, sender: SenderProcess) -> None:
    parsed = environment.parsed_options
    try:
        command_line(parsed)
    except OptionError as error:
        _refuse(str(error))
    # Locust's tables round to milliseconds, and would follow ours or an error message.
    logging.getLogger("locust.stats_logger").disabled = True
    master = Master(environment, sender)
    # While Locust waits for its workers, a Ctrl-C would print a traceback.
    leave_on_interrupt(
        lambda: None, lambda: NOTHING if parsed.headless and not master.begun else ""
    )
    web_tab.attach(environment, master.live, lambda: master.results)
    environment.events.test_start.add_listener(lambda **_: master.start())
    environment.events.test_stopping.add_listener(lambda **_: master.stop())
    environment.events.quitting.add_listener(lambda **_: master.leave())
    environment.events.spawning_complete.add_listener(
        lambda user_count, **_: master.users_changed(user_count)
    )
    parsed.users_given = parsed.num_users is not None
    if not parsed.users_given:
        # Neither processes nor an open loop's users change the load, but Locust counts no requests
        # of a worker without a user.
        workers = parsed.expect_workers if parsed.master and not parsed.closed_loop else 1
        parsed.num_users = max(workers, 1)
    if parsed.spawn_rate is None:
        parsed.spawn_rate = together(parsed.num_users)
    if parsed.headless or parsed.autostart:
        # The run ends by itself: Locust's timer would end the workers before their drain.
        _keep_duration(environment)


def _keep_duration(environment: Any) -> None:
    parsed = environment.parsed_options
    duration, parsed.run_time = parsed.run_time, None
    environment.events.test_start.add_listener(lambda **_: setattr(parsed, "run_time", duration))


def _refuse(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(EXIT_BAD_INPUT)


class LlamaUser(User):
    """A user of a closed loop; in an open loop, a share of the rate.

    Locust starts and stops it; the sender sends its requests.
    """

    wait_time = constant(3600)

    @task
    def nothing(self) -> None:
        """Locust requires a task."""

    def on_start(self) -> None:
        WORKERS[""].users_changed(1)

    def on_stop(self) -> None:
        WORKERS[""].users_changed(-1)


__all__ = ["LlamaUser", "locust"]
