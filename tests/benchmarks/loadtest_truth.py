"""Hold the load test's figures against the truth; the exit code is 1 where they differ.

1. A player that writes down its own times, at 1,500 tokens/s: every percentile of one worker within
   2 ms or 3 percent of those from each request's send to the player's writes. At 3,000 tokens/s the
   worker must still call itself valid.
2. 300 requests/s with more than 300 in flight: the rate follows the load that is offered.
3. The real server on the replay engine, stopped for 3 s: p99 of ttft says seconds.
4. One process and two, the same seed: the same requests, the same figures within the noise.
5. perf_analyzer and aiperf on the same replay engine, a closed loop of the same users: mean itl and
   e2e and tokens/s within 2 percent of theirs (`--only peers`: that alone).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from host.console import run_script, say
from llama_fp4 import Request
from llama_fp4.model_contract import OUTPUTS, Tensor
from llama_fp4.transports import grpc_messages as grpc_wire
from serving.child_server import ServerProcess, free_ports

from tests.benchmarks.peer_load_tests import Figures, Load, aiperf, perf_analyzer
from tests.benchmarks.playback_server import record
from tests.support.deployments import make_deployment
from tests.support.paths import DEMO_CHECKPOINT, LOADTEST

# The load test is not an installed package; its modules import their own siblings.
sys.path.append(str(LOADTEST))

from figures.record import WARMUP, RequestRecord

LOCUSTFILE = LOADTEST / "locustfile.py"
PERCENTS = (50.0, 90.0, 99.0)
TOLERANCE_S, TOLERANCE_SHARE = 2e-3, 0.03
FIRST_S, GAP_S, TOKENS = 0.05, 0.02, 50
STRICT = "5e-3"  # s: by default a valid run may be later than the tolerance
PEERS_SHARE = 0.02
ATTEMPTS = 5  # of a run that calls itself invalid: that proves nothing
INVALID = 3  # locustfile.py's exit code
failures: list[str] = []


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", choices=["peers"], help="the fifth alone")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pace = ("--step-seconds", str(GAP_S), "--max-batch-size", "64")
        repository = make_deployment(folder, "--runtime", "replay", *pace)
        with ServerProcess(repository, free_ports(), folder / "log") as server:
            url = server.ports.url("grpc")
            record(url, folder / "answer", _request())
            if not only:
                prove_stall(url, server.pid, folder)
                prove_processes(url, folder)
            prove_peers(url, server.ports.url("http"), folder)
        if not only:
            prove_pace(folder, 1500, judged=True)
            prove_pace(folder, 3000, judged=False)
            prove_rate(folder)
    for failure in failures:
        say(f"NOT PROVEN: {failure}")
    if failures:
        raise SystemExit(1)
    say("all proven")


def prove_pace(folder: Path, tokens_per_s: int, judged: bool) -> None:
    """Reported percentiles against what the player wrote down."""
    rate = str(tokens_per_s / TOKENS)
    shape = ["--workload", f"64/{TOKENS}", "-t", "20s", "--warmup", "0"]
    shape += ["--max-lag", STRICT] if judged else []
    for _ in range(ATTEMPTS):
        with player(folder, FIRST_S, GAP_S) as url:
            summary, code = load(folder, url, "--rate", rate, *shape)
        if code != INVALID:
            break
        say(f"        once more, the machine is busy: {summary['validity']['reasons'][0]}")
    judge(f"{tokens_per_s} tokens/s are valid", code != INVALID, summary["validity"]["reasons"])
    for name, values in truth(folder).items():
        for percent in PERCENTS:
            true = at(values, percent)
            said = summary["metrics"][name][f"p{percent:g}"]
            close = abs(said - true) <= max(TOLERANCE_S, TOLERANCE_SHARE * true)
            text = f"{tokens_per_s} tokens/s, {name} p{percent:g}: {said * 1e3:.2f} ms reported"
            text += f", {true * 1e3:.2f} ms true"
            if judged:
                judge(text, close)
            else:
                say(f"        {text}")
    worker = summary["workers"]["0"]
    say(
        f"        {summary['rates']['output_tokens_per_s']:,.0f} tokens/s, "
        f"{worker['cpu']:.0%} of a core, "
        f"send_lag p99 {summary['metrics']['send_lag']['p99'] * 1e3:.1f} ms"
    )


def truth(folder: Path) -> dict[str, list[float]]:
    """The measured requests' times, sorted: when the load test sent, and when the player wrote."""
    written = json.loads((folder / "times").read_text(encoding="utf-8"))
    run = folder / "run"
    zero = json.loads((run / "header.json").read_text(encoding="utf-8"))["started_unix"]
    lines = (run / "records.jsonl").read_text(encoding="utf-8").splitlines()
    first, gaps, there, back = [], list[float](), [], []
    for each in map(RequestRecord.from_json, lines):
        if each.phase == WARMUP or each.sent_at is None or each.first_token_at is None:
            continue
        arrived, *times = written[each.request_id]
        first.append(times[0] - zero - each.sent_at)
        gaps += (b - a for a, b in itertools.pairwise(times))
        there.append(arrived - zero - each.sent_at)
        back.append(zero + each.first_token_at - times[0])
    for name, values in (("client to player", there), ("player to client", back)):
        values.sort()
        p50, p99 = (at(values, percent) * 1e3 for percent in (50, 99))
        say(f"        {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    return {"ttft_from_send": sorted(first), "itl": sorted(gaps)}


def at(values: Sequence[float], percent: float) -> float:
    """The nearest rank's of sorted values."""
    return values[math.ceil(len(values) * percent / 100) - 1]


def prove_rate(folder: Path) -> None:
    """A user of upstream's ensemble saw no more than 228 requests, whatever the load."""
    with player(folder, 1.0, GAP_S) as url:
        arguments = ("--rate", "300", "--workload", "32/2", "-t", "12s", "--arrivals", "constant")
        summary, _ = load(folder, url, *arguments)
    rates = summary["rates"]
    text = f"offered {rates['offered_per_s']:.1f}/s, each in flight for 1 s, "
    text += f"completed {rates['requests_per_s']:.1f}/s"
    judge(text, rates["requests_per_s"] >= 0.97 * rates["offered_per_s"] > 290)


def prove_stall(url: str, pid: int, folder: Path) -> None:
    """3 s of silence from the server."""
    arguments = ("--rate", "10", "--workload", "64/20", "-t", "14s")
    summary, _ = load(folder, url, *arguments, "--stall", "7:3", "--stall-pid", str(pid))
    p99 = summary["metrics"]["ttft"]["p99"]
    judge(f"the server stopped for 3 s: ttft p99 {p99:.2f} s", p99 > 2)


def prove_processes(url: str, folder: Path) -> None:
    """The schedule and the prompts are the seed's, not the workers'."""
    arguments = ("--rate", "15", "--workload", "64/20", "-t", "15s", "--seed", "7")
    one, _ = load(folder, url, *arguments)
    two, _ = load(folder, url, *arguments, "--processes", "2")
    judge(f"requests of 1 and 2 processes: {count(one)} and {count(two)}", count(one) == count(two))
    for name in ("ttft", "itl", "e2e"):
        a, b = (each["metrics"][name]["p50"] for each in (one, two))
        text = f"{name} p50 of 1 and 2 processes: {a * 1e3:.1f} and {b * 1e3:.1f} ms"
        judge(text, abs(a - b) <= max(5e-3, 0.1 * a))


def prove_peers(url: str, http: str, folder: Path) -> None:
    """What two other load tests say of the same server under the same load."""
    # Long answers: what a program does between two requests is not what is compared.
    asked = Load(users=8, tokens=200, seconds=40, warmup_s=5, prompt="Once upon a time")
    ours = _ours(url, asked, folder)
    peers = {
        "perf_analyzer": perf_analyzer(url, asked),
        "aiperf": aiperf(http, asked, DEMO_CHECKPOINT),
    }
    for name, theirs in peers.items():
        for figure, scale, unit in (
            ("itl_s", 1e3, "ms"),
            ("e2e_s", 1e3, "ms"),
            ("tokens_per_s", 1, "tokens/s"),
        ):
            a, b = getattr(ours, figure), getattr(theirs, figure)
            text = f"{figure}: {a * scale:.2f} {unit}, {name}'s {b * scale:.2f}"
            judge(text, abs(a / b - 1) <= PEERS_SHARE)
    for name, each in {"this load test": ours, **peers}.items():
        say(f"        {name}: {each.cpu_s:.2f} s of CPU per 1,000 tokens, its start included")


def _ours(url: str, asked: Load, folder: Path) -> Figures:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["--closed-loop", "-u", str(asked.users), "-t", f"{asked.seconds}s"]
    arguments += ["--warmup", str(asked.warmup_s), "--workload", f"64/{asked.tokens}"]
    summary, _ = load(folder, url, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = (folder / "run" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    tokens = sum(RequestRecord.from_json(line).num_output_tokens for line in lines)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figures(
        itl_s=summary["metrics"]["itl"]["mean"],
        e2e_s=summary["metrics"]["e2e"]["mean"],
        tokens_per_s=summary["rates"]["output_tokens_per_s"],
        cpu_s=cpu_s / tokens * 1e3,
    )


def judge(text: str, right: bool, why: Sequence[str] = ()) -> None:
    """Print the claim, and keep it if it is wrong."""
    say(f"{'ok' if right else 'WRONG':<8}{text}")
    if not right:
        failures.append(f"{text} {'; '.join(why)}".strip())


def count(summary: Mapping[str, Any]) -> int:
    """Requests that were measured."""
    return int(summary["counts"]["scheduled"])


def load(folder: Path, url: str, *arguments: str) -> tuple[dict[str, Any], int]:
    """Run the load test as a person does; its summary and exit code."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
    command += ["-H", url, "--tokenizer", str(DEMO_CHECKPOINT / "tokenizer.json")]
    command += ["--distinct-prompts", "4", "--output", str(folder / "run"), *arguments]
    (folder / "run" / "summary.json").unlink(missing_ok=True)
    with (folder / "locust.log").open("w", encoding="utf-8") as log:
        code = subprocess.call(command, stdout=log, stderr=log)
    summary = folder / "run" / "summary.json"
    if not summary.is_file():
        say((folder / "locust.log").read_text(encoding="utf-8"))
        raise SystemExit(1)
    return json.loads(summary.read_text(encoding="utf-8")), code


@contextlib.contextmanager
def player(folder: Path, first_s: float, gap_s: float) -> Iterator[str]:
    """A running player's address; at the end its times are in `folder`."""
    command = [sys.executable, "-m", "tests.benchmarks.paced_player", str(folder / "answer")]
    command += [str(folder / "times"), "--first-s", str(first_s), "--gap-s", str(gap_s)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.write("\n")
        process.stdin.close()


def _request() -> Any:
    tensors = (
        Tensor("text_input", "BYTES", (1, 1), ["Hello there"]),
        Tensor("max_tokens", "INT32", (1, 1), [8]),
        Tensor("stream", "BOOL", (1, 1), [True]),
    )
    return grpc_wire.infer_request(Request("ensemble", "", tensors, {}, OUTPUTS))


if __name__ == "__main__":
    run_script(main)
