"""Samples the server's metrics once a second while a run goes on.

A plain thread, which gevent turns into a greenlet under Locust. If the server's metrics cannot be
read, the run loses only the split of its TTFT, and says so.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from figures.server_metrics import ServerMetrics, parse_metrics, server_models
from figures.ttft_split import SplitError, split_ttft

INTERVAL_S = 1.0
FETCH_S = 2.0  # timeout
# The engine publishes its sums every half second. `stop` waits until they hold all requests, but at
# most this long, before it takes the last sample.
LAST_AFTER_S = 1.0
LAST_POLL_S = 0.1
MAX_SAMPLES = 1200


@dataclass(frozen=True, slots=True)
class Sample:
    """`at_s` seconds after the run's start."""

    at_s: float
    metrics: ServerMetrics

    def to_json(self) -> str:
        """One line, whole: a killed run's split is made from the lines."""
        return json.dumps({"at_s": self.at_s, "metrics": dataclasses.asdict(self.metrics)})

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """The inverse of `to_json`; raises ValueError for a truncated line."""
        try:
            document = json.loads(line)
            return cls(document["at_s"], ServerMetrics.from_fields(document["metrics"]))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it is not a sample of a server: {error}") from error


def metrics_url(text: str, server: str = "127.0.0.1") -> str:
    """`text` as a URL; without one, where the client looks for the metrics of `server`.

    >>> metrics_url("", "10.0.0.7:9001"), metrics_url("gpu1:9002")
    ('http://10.0.0.7:9002/metrics', 'http://gpu1:9002/metrics')
    """
    if not text:
        from sending import sdk  # not for reports, which need no client

        text = sdk.metrics_url(server)
    if "://" not in text:
        text = f"http://{text}"
    scheme, _, rest = text.partition("://")
    return text if "/" in rest else f"{scheme}://{rest}/metrics"


def fetch_metrics(url: str) -> str:
    """The endpoint's text; raises OSError or HTTPException."""
    with urllib.request.urlopen(url, timeout=FETCH_S) as answer:
        return str(answer.read().decode("utf-8", errors="replace"))


class ServerSampler:
    """`start()` before the load, `stop()` after its drain, then `summary()`.

    `warmup_s`: the split begins with the first sample at or after it. `keep` gets every sample as
    it is taken.
    """

    def __init__(
        self,
        url: str,
        started_unix: float | None = None,
        warmup_s: float = 0.0,
        interval_s: float = INTERVAL_S,
        fetch: Callable[[str], str] = fetch_metrics,
        keep: Callable[[Sample], None] = lambda _: None,
    ) -> None:
        self.url = url
        self.samples: list[Sample] = []
        self.problem = ""  # why the last sample failed; one sentence
        self._missed = 0
        self._zero = time.time() if started_unix is None else started_unix
        self._warmup_s = warmup_s
        self._interval_s = interval_s
        self._fetch = fetch
        self._keep = keep
        self._stopped = threading.Event()
        self._base: Sample | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sample now, and then every `interval_s`."""
        self._thread = threading.Thread(target=self._run, name="server-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sample a last time and end."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self.samples:
                self._await_sums()
                self.sample()

    def sample(self) -> None:
        """Take one sample; an error is kept as `problem`."""
        try:
            metrics = parse_metrics(self._fetch(self.url))
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            self.problem = (
                f"the server's metrics at {self.url} could not be read: {reason}; "
                "name them with --metrics-url"
            )
            self._missed += 1
            return
        taken = Sample(time.time() - self._zero, metrics)
        self.add(taken)
        self._keep(taken)

    def _await_sums(self) -> None:
        until = time.monotonic() + LAST_AFTER_S
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LAST_POLL_S))
            try:
                metrics = parse_metrics(self._fetch(self.url))
            except (OSError, http.client.HTTPException, ValueError):
                return  # `sample` says why
            engine = metrics.steps.get("tensorrt_llm")
            if engine is not None and engine.requests == metrics.sequences:
                return

    def add(self, taken: Sample) -> None:
        """Add a sample, new or read back from a file."""
        self.samples.append(taken)
        if self._base is None or self._base.at_s < self._warmup_s:
            self._base = taken
        if len(self.samples) > MAX_SAMPLES:
            del self.samples[1::2]
            self._interval_s *= 2

    def summary(self, ttft_s: float | None, send_lag_s: float | None) -> dict[str, Any]:
        """For the run's summary: url, problem, samples, split (None with `split_problem`), models.

        `ttft_s`, `send_lag_s`: means of the measured requests, None if there were none.
        """
        split, problem = None, self.problem
        if ttft_s is None:
            problem = problem or "no measured request had a first token"
        elif self._base is None:
            problem = problem or "the server's metrics were not sampled"
        else:
            try:
                split = split_ttft(
                    self._base.metrics, self.samples[-1].metrics, ttft_s, send_lag_s or 0.0
                )
            except SplitError as error:
                problem = str(error)
        base = self._base or Sample(0.0, ServerMetrics())
        last = self.samples[-1] if self.samples else base
        return {
            "url": self.url,
            "problem": self.problem,
            "missed": self._missed,
            "split": split,
            "split_problem": "" if split else problem,
            "models": server_models(base.metrics, last.metrics),
            "models_s": last.at_s - base.at_s,  # between the two samples
            "samples": [{"at_s": each.at_s, **each.metrics.to_dict()} for each in self.samples],
        }

    def _run(self) -> None:
        while True:
            self.sample()
            if self._stopped.wait(self._interval_s):
                return
