"""The gateway's own metrics, and Triton's beside them in one answer.

With several workers prometheus_client shares its values through files: the parent names their
folder in PROMETHEUS_MULTIPROC_DIR before this module is imported.
"""

from __future__ import annotations

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "llama_fp4_gateway_"
TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """What one worker counts."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            PREFIX + "requests", "Answered requests", ["path", "status"], registry=registry
        )
        self.active = Gauge(
            PREFIX + "active_requests",
            "Requests in flight",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.prompt_tokens = Counter(
            PREFIX + "prompt_tokens", "Tokens of prompts", registry=registry
        )
        self.completion_tokens = Counter(
            PREFIX + "completion_tokens", "Tokens of answers", registry=registry
        )
        self.ttft = Histogram(
            PREFIX + "time_to_first_token_seconds",
            "From the request's body to the first event of a stream",
            buckets=TTFT_BUCKETS,
            registry=registry,
        )
        self.seconds = Histogram(
            PREFIX + "request_seconds",
            "From a request's first byte to its answer's last",
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )

    def merged(self, triton: str) -> bytes:
        """All workers' metrics after Triton's own."""
        registry = self._registry
        if FOLDER_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        before = triton.rstrip("\n")
        return (before + "\n" if before else "").encode() + generate_latest(registry)
