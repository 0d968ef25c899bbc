"""Runs NVIDIA's load tests from PyPI, perf_analyzer and aiperf, and reads their files.

perf_analyzer is in tritonclient's wheels up to 2.50 (the later package needs glibc 2.38); two
libraries that it wants are in nvidia-pytriton's wheel. aiperf has no Triton endpoint: its template
endpoint reads /generate_stream. Both report latencies of responses; aiperf leaves out
those without text, and counts tokens by tokenizing the text again. To compare
equal quantities, this module computes them from the times that each records and from the server's
token counts.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from host.console import BuildError

from tests.support.paths import BUILD

OUT = BUILD / "out" / "peers"
TRIES = 5
TRITONCLIENT, AIPERF = "tritonclient==2.50.0", "aiperf==0.13.0"
LIBRARIES = {"libb64-": "libb64.so.0d", "libcudart-": "libcudart.so.12"}


@dataclass(frozen=True)
class Figures:
    """A closed loop's times, tokens/s, and the whole program's CPU seconds per 1,000 tokens."""

    itl_s: float
    e2e_s: float
    tokens_per_s: float
    cpu_s: float


@dataclass(frozen=True)
class Load:
    """A closed loop of `users`, who each ask for `tokens` tokens again and again, for `seconds`.

    The first `warmup_s`, in which a program may still be starting, do not count.
    """

    users: int
    tokens: int
    seconds: int
    warmup_s: int
    prompt: str


@dataclass(frozen=True)
class Answered:
    """When a request was sent, and for each response with tokens when it came and how many."""

    sent: float  # seconds, as the others
    came: Sequence[tuple[float, int]]

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.came)


def perf_analyzer(url: str, load: Load) -> Figures:
    """Against gRPC at `url`; raises `BuildError`."""
    request = {
        "text_input": [load.prompt],
        "max_tokens": [load.tokens],
        "stream": [True],
        "ignore_eos": [True],
        "exclude_input_in_output": [True],
    }
    binary = _perf_analyzer()
    (OUT / "input.json").write_text(json.dumps({"data": [request]}), encoding="utf-8")
    exported = OUT / "perf_analyzer.json"
    command = [str(binary), "-m", "ensemble", "-u", url, "-i", "grpc", "--streaming"]
    command += ["--async", "--input-data", str(OUT / "input.json")]
    # It measures until three windows agree. Here any three do, and the times of all are used.
    command += ["--concurrency-range", str(load.users), "--stability-percentage", "99"]
    command += ["--measurement-interval", str(load.seconds * 1000 // 3)]
    command += ["--profile-export-file", str(exported)]
    experiment, cpu_s = _exported(command, exported)
    return _figures(
        (
            Answered(
                each["timestamp"] / 1e9,
                [
                    (at / 1e9, int(output["num_output_tokens"]))
                    for at, output in zip(
                        each["response_timestamps"], each["response_outputs"], strict=True
                    )
                    if output.get("num_output_tokens")
                ],
            )
            for each in experiment["requests"]
        ),
        load,
        cpu_s,
    )


def _exported(command: list[str], exported: Path) -> tuple[dict[str, Any], float]:
    """What perf_analyzer wrote of its run, and its seconds of CPU; raises `BuildError`.

    For an output without elements it exports arbitrary memory, and its file may break off (2.50,
    seen once in two runs; the likely cause is a number that JSON cannot hold). Then it runs again.
    """
    for _ in range(TRIES):
        exported.unlink(missing_ok=True)  # it refuses to write over a file
        cpu_s = _run(command, "perf_analyzer", LD_LIBRARY_PATH=str(OUT / "lib"))
        with suppress(json.JSONDecodeError):
            (experiment,) = json.loads(exported.read_text(encoding="utf-8"))["experiments"]
            return experiment, cpu_s
    raise BuildError(f"perf_analyzer left {exported} unfinished in {TRIES} runs")


def aiperf(url: str, load: Load, tokenizer: Path) -> Figures:
    """Against HTTP at `url`; `tokenizer` is a checkpoint's folder. Raises `BuildError`."""
    sent = {
        "payload_template": '{"text_input": {{ text|tojson }}}',
        "response_field": "text_output",
        "max_tokens": load.tokens,
        "stream": True,
        "ignore_eos": True,
        "exclude_input_in_output": True,
    }
    folder = OUT / "aiperf-run"
    exported = folder / "profile_export_raw.jsonl"
    exported.unlink(missing_ok=True)
    command = [str(_aiperf()), "profile", "-m", "ensemble", "--url", url, "--ui", "none"]
    command += ["--endpoint-type", "template", "--streaming"]
    command += ["--custom-endpoint", "/v2/models/ensemble/generate_stream"]
    command += ["--tokenizer", str(tokenizer), "--extra-inputs", json.dumps(sent)]
    command += ["--concurrency", str(load.users), "--benchmark-duration", str(load.seconds)]
    command += ["--synthetic-input-tokens-mean", "16", "--synthetic-input-tokens-stddev", "0"]
    command += ["--export-level", "raw", "--artifact-dir", str(folder)]
    cpu_s = _run(command, "aiperf")
    lines = exported.read_text(encoding="utf-8").splitlines()
    return _figures((_of_aiperf(json.loads(line)) for line in lines), load, cpu_s)


def _of_aiperf(record: dict[str, Any]) -> Answered:
    came = [
        (each["perf_ns"] / 1e9, json.loads(packet["value"]).get("num_output_tokens", 0))
        for each in record.get("responses") or []
        for packet in each["packets"]
        if packet["name"] == "data"
    ]
    return Answered(record["start_perf_ns"] / 1e9, [each for each in came if each[1]])


def _figures(answered: Iterable[Answered], load: Load, cpu_s: float) -> Figures:
    """Figures of whole answers to requests after the warm-up.

    tokens/s covers the seconds until the last request, in which every user was asking.
    """
    whole = [each for each in answered if each.tokens == load.tokens]
    start = min((each.sent for each in whole), default=0.0) + load.warmup_s
    steady = [each for each in whole if each.sent >= start]
    if len(steady) < 2 * load.users:
        raise BuildError(f"{len(steady)} whole answers came, expected {2 * load.users} at least")
    gaps = [
        (after - before) / tokens
        for each in steady
        for (before, _), (after, tokens) in itertools.pairwise(each.came)
    ]
    ends = [each.came[-1][0] - each.sent for each in steady]
    last = max(each.sent for each in steady)
    tokens = sum(n for each in whole for at, n in each.came if start <= at < last)
    return Figures(
        itl_s=sum(gaps) / len(gaps),
        e2e_s=sum(ends) / len(ends),
        tokens_per_s=tokens / (last - start),
        cpu_s=cpu_s / sum(each.tokens for each in whole) * 1e3,
    )


def _run(command: list[str], name: str, **environment: str) -> float:
    """Seconds of CPU that it took, with its children; raises `BuildError` if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, cwd=OUT
    )
    if done.returncode:
        raise BuildError(f"{name} failed: {(done.stderr or done.stdout)[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _perf_analyzer() -> Path:
    binary = OUT / "perf_analyzer"
    if binary.is_file():
        return binary
    OUT.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(OUT)]
    _run([*pip, TRITONCLIENT], "pip")
    (wheel,) = OUT.glob("tritonclient-2.50.0-*x86_64.whl")
    libraries = OUT / "lib"
    libraries.mkdir(exist_ok=True)
    for path in metadata.files("nvidia-pytriton") or []:
        for start, name in LIBRARIES.items():
            if path.name.startswith(start):
                (libraries / name).unlink(missing_ok=True)
                (libraries / name).symlink_to(path.locate())
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/bin/perf_analyzer"))
        binary.write_bytes(archive.read(name))
    binary.chmod(0o755)
    return binary


def _aiperf() -> Path:
    folder = OUT / "aiperf"
    if not (folder / "bin" / "aiperf").is_file():
        OUT.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)], "venv")
        _run([str(folder / "bin" / "pip"), "install", "--quiet", AIPERF], "pip")
    return folder / "bin" / "aiperf"
