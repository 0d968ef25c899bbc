"""Where the TTFT is spent: the metrics' text, the split's arithmetic, and a real server's truth.

The replay engine advances one request at a time here, one token a step of known length: so how long
the second and the third request wait is known.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from figures import server_samples as server_sampler
from figures.record import RequestRecord
from figures.results import RunResults
from figures.server_metrics import STEPS, ServerMetrics, StepCounters, parse_metrics, server_models
from figures.server_samples import ServerSampler, fetch_metrics, metrics_url
from figures.ttft_split import SplitError, split_ttft
from llama_fp4 import Client
from output.formats import described
from report import write_report
from serving.child_server import ServerProcess

from tests.conftest import MakeRepository, serving
from tests.support.processes import eventually

STEP_S = 0.05
TOKENS = 4
PAGE = """# HELP nv_inference_request_success Number of successful requests
nv_inference_request_success{model="preprocessing",version="1"} 10
nv_inference_request_success{model="tensorrt_llm",version="1"} 9
nv_inference_request_success{model="tensorrt_llm",version="2"} 1
nv_inference_request_success{model="postprocessing",version="1"} 100
nv_inference_exec_count{model="preprocessing",version="1"} 8
nv_inference_request_duration_us{model="preprocessing",version="1"} 90000
nv_inference_queue_duration_us{model="preprocessing",version="1"} 20000
nv_inference_queue_duration_us{model="tensorrt_llm",version="1"} 10000
nv_inference_queue_duration_us{model="postprocessing",version="1"} 100000
nv_inference_compute_input_duration_us{model="preprocessing",version="1"} 1000
nv_inference_compute_infer_duration_us{model="preprocessing",version="1"} 40000
nv_inference_compute_output_duration_us{model="preprocessing",version="1"} 9000
nv_inference_compute_infer_duration_us{model="postprocessing",version="1"} 200000
nv_inference_pending_request_count{model="tensorrt_llm",version="1"} 3
llama_fp4_sequences 8
llama_fp4_queue_seconds 0.8
llama_fp4_prefill_seconds 1.6e-1
llama_fp4_queued_requests 5
llama_fp4_engine_info{checkpoint_sha256="c33fc1d4",model="a \\"name\\"",runtime="replay"} 1
"""
PARTS_IN_STATISTICS = {
    "request": "success",
    "queue": "queue",
    "input": "compute_input",
    "infer": "compute_infer",
    "output": "compute_output",
}
NOTHING = ServerMetrics(steps={"preprocessing": StepCounters()})


@pytest.fixture(scope="module")
def paced_server(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    pace = ("--step-seconds", str(STEP_S), "--max-batch-size", "1")
    repository = make_repository("--runtime", "replay", *pace)
    yield from serving(repository, tmp_path_factory.mktemp("paced-server"))


def ask(server: ServerProcess, number: int, zero: float) -> RequestRecord:
    """One streamed request, sent now."""
    due = time.perf_counter() - zero
    times: list[float] = []
    with Client(server.ports.url("grpc")) as client:
        sent = time.perf_counter() - zero
        for chunk in client.stream("a b c d e f g h", max_tokens=TOKENS):
            if chunk.num_output_tokens:
                times.append(time.perf_counter() - zero)
    return RequestRecord(
        request_id=str(number),
        workload="paced",
        scheduled_at=due,
        sent_at=sent,
        first_token_at=times[0],
        last_token_at=times[-1],
        ended_at=time.perf_counter() - zero,
        gaps=tuple((b - a, 1) for a, b in itertools.pairwise(times)),
        num_output_tokens=len(times),
        finish_reason="length",
    )


def all_counted(server: ServerProcess) -> bool:
    """Whether the engine's sums, published twice a second, hold every request."""
    metrics = parse_metrics(fetch_metrics(metrics_url(server.ports.url("metrics"))))
    return metrics.sequences == metrics.steps["tensorrt_llm"].requests


def test_the_metrics_are_read() -> None:
    metrics = parse_metrics(PAGE)
    assert metrics.steps["tensorrt_llm"].requests == 10, "versions are added up"
    step = metrics.steps["preprocessing"]
    assert (step.requests, step.queue_s) == (10, 0.02)
    assert step.compute_s == pytest.approx(0.05)
    assert metrics.pending["tensorrt_llm"] == 3
    assert (metrics.sequences, metrics.engine_queue_s) == (8, 0.8)
    assert metrics.to_dict()["queued_requests"] == 5
    with pytest.raises(ValueError, match="nv_inference_request_success"):
        parse_metrics("<html>hello</html>")


def test_the_parts_add_up_and_match_their_names() -> None:
    split = split_ttft(NOTHING, parse_metrics(PAGE), 0.2, 0.003)
    parts = {each["part"]: each["seconds"] for each in split["parts"]}
    assert sum(parts.values()) == pytest.approx(0.2, abs=1e-12)
    assert parts["client"] == 0.003
    assert parts["queue"] == pytest.approx(0.002 + 0.001 + 0.001 + 0.1)
    assert parts["tokenize"] == pytest.approx(0.005)
    assert parts["prefill"] == pytest.approx(0.02)
    assert parts["detokenize"] == pytest.approx(0.002)
    assert list(parts) == ["client", "queue", "tokenize", "prefill", "detokenize", "other"]


def test_each_models_means_cover_the_requests_between_the_samples() -> None:
    first, last = ServerMetrics(steps={}), parse_metrics(PAGE)
    told = {each["model"]: each for each in server_models(first, last)}
    assert list(told) == ["preprocessing", "tensorrt_llm", "postprocessing"]
    each = told["preprocessing"]
    assert (each["requests"], each["executions"]) == (10, 8)
    means = [each[f"{part}_s"] for part in PARTS_IN_STATISTICS]
    assert means == pytest.approx([0.009, 0.002, 0.0001, 0.004, 0.0009])
    (half,) = server_models(
        ServerMetrics(
            steps={**last.steps, "preprocessing": StepCounters(requests=5, queue_s=0.01)}
        ),
        last,
    )
    assert (half["requests"], half["queue_s"]) == (5, pytest.approx(0.002))
    assert server_models(last, last) == [], "a model without a request has no mean"
    assert server_models(last, NOTHING) == [], "the server was restarted"


def test_the_header_gets_the_engines_description() -> None:
    engine = parse_metrics(PAGE).engine
    assert engine["runtime"] == "replay"
    served = {"server": "triton 2.51.0", **engine, "model": "demo", "kv_cache_type": "u8"}
    assert described(served) == [
        "runtime replay",
        "checkpoint demo (sha256 c33fc1d4)",
        "kv cache type u8",
        "triton 2.51.0",
    ]
    assert described({}) == []


def test_without_engine_times_the_remainder_is_named_so() -> None:
    text = "\n".join(line for line in PAGE.splitlines() if "llama_fp4" not in line)
    split = split_ttft(NOTHING, parse_metrics(text), 0.2, 0.0)
    parts = {each["part"]: each["seconds"] for each in split["parts"]}
    assert "prefill" not in parts
    assert "other" not in parts
    assert sum(parts.values()) == pytest.approx(0.2, abs=1e-12)
    assert parts["engine_and_other"] == pytest.approx(0.2 - 0.004 - 0.005 - 0.002)


def test_a_restart_and_no_requests_have_no_split() -> None:
    with pytest.raises(SplitError, match="restarted"):
        split_ttft(parse_metrics(PAGE), NOTHING, 0.2, 0.0)
    with pytest.raises(SplitError, match="no request"):
        split_ttft(parse_metrics(PAGE), parse_metrics(PAGE), 0.2, 0.0)


@pytest.mark.parametrize(
    ("text", "server", "url"),
    [
        ("", "10.0.0.7:8001", "http://10.0.0.7:8002/metrics"),
        ("", "10.0.0.7:9001", "http://10.0.0.7:9002/metrics"),
        ("", "https://host:8000", "http://host:8002/metrics"),
        ("gpu1:9002", "", "http://gpu1:9002/metrics"),
        ("https://gpu1/m", "", "https://gpu1/m"),
    ],
)
def test_the_metrics_address(text: str, server: str, url: str) -> None:
    assert metrics_url(text, server) == url


def test_an_unreachable_endpoint_gets_one_sentence() -> None:
    sampler = ServerSampler("http://127.0.0.1:9/metrics")
    sampler.start()
    sampler.stop()
    summary = sampler.summary(0.2, 0.0)
    assert summary["split"] is None
    assert summary["samples"] == []
    assert summary["problem"].startswith("the server's metrics at http://127.0.0.1:9/metrics could")
    assert summary["problem"].endswith("name them with --metrics-url")


def test_a_long_run_keeps_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_sampler, "MAX_SAMPLES", 10)
    sampler = ServerSampler("http://server", fetch=lambda _: PAGE)
    for _ in range(100):
        sampler.sample()
    assert len(sampler.samples) <= 10
    assert sampler.samples[0].at_s <= sampler.samples[-1].at_s


def test_the_last_sample_waits_for_the_engines_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer: the limit is an hour here."""
    monkeypatch.setattr(server_sampler, "LAST_AFTER_S", 3600.0)
    behind = [PAGE] * 3 + [PAGE.replace("llama_fp4_sequences 8", "llama_fp4_sequences 10")] * 2
    pages = iter(behind)
    sampler = ServerSampler("", interval_s=3600.0, fetch=lambda _: next(pages))
    sampler.start()
    eventually(lambda: bool(sampler.samples), "the first sample")
    sampler.stop()
    assert [each.metrics.sequences for each in sampler.samples] == [8, 10]
    assert next(pages, None) is None, "asked until they held all 10, and once more"


def told_twice(server: ServerProcess) -> list[tuple[StepCounters, Any]]:
    """The counters of each of the ensemble's models, at the metrics endpoint and in Triton's
    statistics."""
    metrics = parse_metrics(fetch_metrics(metrics_url(server.ports.url("metrics"))))
    steps = {model: step for model, step in metrics.steps.items() if model in STEPS}
    pairs = []
    for model, step in steps.items():
        url = f"http://{server.ports.url('http')}/v2/models/{model}/stats"
        with urllib.request.urlopen(url) as answer:
            pairs.append((step, json.loads(answer.read())["model_stats"][0]))
    return pairs


def test_the_metrics_match_the_statistics(paced_server: ServerProcess) -> None:
    ask(paced_server, 0, 0.0)

    def settled() -> bool:  # a model is counted a moment after its last response
        pairs = told_twice(paced_server)
        counts = [stats["inference_stats"]["success"]["count"] for _, stats in pairs]
        return 0 not in counts and counts == [step.requests for step, _ in pairs]

    eventually(settled, "the same counts in both")
    for step, stats in told_twice(paced_server):
        told = stats["inference_stats"]
        assert stats["response_stats"] == {}, "it tells of responses now: the split can use it"
        compute = sum(told[f"compute_{part}"]["ns"] for part in ("input", "infer", "output"))
        rounding = 3e-6 * max(step.requests, 1)
        assert step.queue_s == pytest.approx(told["queue"]["ns"] / 1e9, abs=rounding)
        assert step.compute_s == pytest.approx(compute / 1e9, abs=rounding)
        for part, name in PARTS_IN_STATISTICS.items():
            own = getattr(step, f"{part}_s")
            assert own == pytest.approx(told[name]["ns"] / 1e9, abs=rounding), part
        assert step.executions == stats["execution_count"]


def statistics(server: ServerProcess) -> dict[str, dict[str, float]]:
    """Requests and seconds by part, for each model of the ensemble, from Triton's statistics."""
    told = {}
    for model in STEPS:
        url = f"http://{server.ports.url('http')}/v2/models/{model}/stats"
        with urllib.request.urlopen(url) as answer:
            stats = json.loads(answer.read())["model_stats"][0]["inference_stats"]
        times = {part: stats[name]["ns"] / 1e9 for part, name in PARTS_IN_STATISTICS.items()}
        told[model] = {"requests": float(stats["success"]["count"]), **times}
    return told


def all_ended(server: ServerProcess) -> bool:
    """Whether the ensemble, which Triton counts last, has as many requests as its engine."""
    told = statistics(server)
    return told["ensemble"]["requests"] == told["tensorrt_llm"]["requests"]


def test_the_split_of_a_known_pace(paced_server: ServerProcess, tmp_path: Path) -> None:
    ask(paced_server, 0, 0.0)  # the first one is slow
    eventually(lambda: all_counted(paced_server), "the engine's sums of all requests")
    eventually(lambda: all_ended(paced_server), "Triton's counts of all requests")
    before = statistics(paced_server)
    zero, started = time.perf_counter(), time.time()
    sampler = ServerSampler(metrics_url(paced_server.ports.url("metrics")), started)
    sampler.sample()
    sampler.start()
    records: list[RequestRecord] = []
    threads = [
        threading.Thread(target=lambda n=n: records.append(ask(paced_server, n, zero)))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: all_ended(paced_server), "Triton's counts of all requests")
    sampler.stop()
    after = statistics(paced_server)

    results = RunResults({"workload": "paced", "started_unix": started, "duration_s": 10.0})
    for record in records:
        results.add(record)
    summary = results.summary()
    metrics = summary["metrics"]
    summary["server"] = sampler.summary(metrics["ttft"]["mean"], metrics["send_lag"]["mean"])
    split = summary["server"]["split"]
    assert split is not None, summary["server"]["split_problem"]
    assert split["requests"] == 3
    parts = {each["part"]: each["seconds"] for each in split["parts"]}
    assert sum(parts.values()) == pytest.approx(metrics["ttft"]["mean"], abs=1e-9)
    # Who comes later waits until the one before has its last token, and then takes a step: seen by
    # the client with the way there and back on top.
    order = sorted(records, key=lambda each: each.first_token_at or 0)
    waits = [
        (before.last_token_at or 0) - (each.sent_at or 0)
        for before, each in itertools.pairwise(order)
    ]
    assert parts["queue"] == pytest.approx(sum(waits) / 3, rel=0.5)
    assert sum(waits) / 3 > STEP_S, "they did wait"
    assert parts["prefill"] >= STEP_S / 2
    assert parts["queue"] + parts["prefill"] < metrics["ttft"]["mean"]
    assert all(parts[name] > 0 for name in ("client", "tokenize", "detokenize", "other"))
    assert max(each["queued_requests"] for each in summary["server"]["samples"]) <= 2

    models = {each["model"]: each for each in summary["server"]["models"]}
    assert list(models) == list(STEPS)
    for name, model in models.items():
        spent = {part: after[name][part] - before[name][part] for part in after[name]}
        assert model["requests"] == spent["requests"] > 0, name
        for part in PARTS_IN_STATISTICS:
            mean = spent[part] / spent["requests"]
            assert model[f"{part}_s"] == pytest.approx(mean, abs=3e-6), (name, part)

    (tmp_path / "summary.json").write_text(json.dumps(summary))
    lines = "".join(record.to_json() + "\n" for record in records)
    (tmp_path / "records.jsonl").write_text(lines)
    page = write_report(tmp_path).read_text()
    assert "Queue on the server" in page
    assert f"{parts['queue'] * 1e3:,.1f}" in page
