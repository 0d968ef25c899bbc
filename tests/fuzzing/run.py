"""Sends thousands of requests on several connections at once, and keeps the faults."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from llama_fp4 import Client, Timeouts
from serving.child_server import Ports

from tests.fuzzing.cases import make_case
from tests.fuzzing.drafts import Case
from tests.fuzzing.lane import DEADLINE_S, Lane, Outcome
from tests.fuzzing.oracle import faults

CANARY = "The canary sings."
BUSY = "try again later"  # the queue is full: no fault of the request's


class Run:
    """Sends cases on several connections at once and keeps the faults."""

    def __init__(self, ports: Ports, seed: int, lanes: int = 4, leaving: bool = False) -> None:
        self._urls = ports.url("grpc"), ports.url("http")
        self._seed, self._lanes, self._leaving = seed, lanes, leaving
        self._canaries = {
            model: Client(ports.url("grpc"), model) for model in ("ensemble", "tensorrt_llm_bls")
        }
        self._song = self._sing("ensemble")
        self._lock = threading.Lock()
        self.faults: list[str] = []
        self.codes: Counter[tuple[str, str]] = Counter()  # by entry and outcome
        self.refusal_seconds: list[float] = []
        self.malformed = 0

    def ask(self, indices: Iterator[int], canary_every: int = 250) -> None:
        """Send the cases of these numbers, and a valid question now and then."""
        with ThreadPoolExecutor(self._lanes) as pool:
            lanes = [
                pool.submit(self._ask_in_lane, indices, canary_every) for _ in range(self._lanes)
            ]
        for lane in lanes:
            lane.result()
        self._check_canaries("at the end")
        for client in self._canaries.values():
            client.close()

    def _ask_in_lane(self, indices: Iterator[int], canary_every: int) -> None:
        lane = Lane(*self._urls)
        while len(self.faults) < 20:
            with self._lock:
                index = next(indices, None)
            if index is None:
                break
            case = make_case(self._seed, index, self._leaving)
            outcome = lane.ask(case)
            while BUSY in outcome.message and case.expect == "answer":
                outcome = lane.ask(case)
            self._note(case, outcome)
            if index % canary_every == 0:
                self._check_canaries(f"near index {index}")
        lane.close()

    def _note(self, case: Case, outcome: Outcome) -> None:
        found = faults(case, outcome)
        with self._lock:
            self.codes[f"{case.entry.model} {case.entry.wire}", outcome.code] += 1
            self.malformed += bool(case.what)
            if outcome.code != "OK":
                self.refusal_seconds.append(outcome.seconds)
            again = repeat_command(case, self._leaving)
            self.faults += [f"{case}: {fault}\n    again: {again}" for fault in found]

    def _check_canaries(self, when: str) -> None:
        for model in self._canaries:
            song = self._sing(model)
            if song != self._song:
                with self._lock:
                    self.faults.append(f"{when} {model} answers {song!r} to a right question")

    def _sing(self, model: str) -> str:
        try:
            limit = Timeouts(total=DEADLINE_S)
            return self._canaries[model].generate(CANARY, max_tokens=12, timeouts=limit).text
        except RuntimeError as error:
            return f"error: {error}"

    def table(self) -> str:
        """What every entry answered."""
        entries = sorted({entry for entry, _ in self.codes})
        codes = sorted({code for _, code in self.codes})
        lines = [f"{'':26}" + "".join(f"{code[:12]:>13}" for code in codes)]
        for entry in entries:
            counts = "".join(f"{self.codes[entry, code] or '':>13}" for code in codes)
            lines.append(f"{entry:26}{counts}")
        slowest = sorted(self.refusal_seconds)[-1 - len(self.refusal_seconds) // 100 :]
        if slowest:
            p99, most = (f"{1000 * second:.0f} ms" for second in (slowest[0], slowest[-1]))
            lines.append(f"refusals: p99 {p99}, slowest {most}")
        return "\n".join(lines)


def repeat_command(case: Case, leaving: bool) -> str:
    """The command that sends a case again, to a server of its own."""
    command = f".venv/bin/python -m tests.fuzzing --seed {case.seed} --index {case.index}"
    return command + " --leaving" * leaving
