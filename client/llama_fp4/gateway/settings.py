"""What one gateway is told at its start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama_fp4.cli.options import ServerOptions

DEFAULT_PORT = 9000


@dataclass(frozen=True)
class GatewaySettings:
    """The command line of `llama-fp4 gateway`."""

    server: ServerOptions  # the Triton behind it
    metrics_url: str  # of that Triton
    served_names: tuple[str, ...]  # what requests may call the model; answers use the first
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    workers: int = 1
    api_keys: Path | None = None  # None: no key is asked for
    certificate: tuple[Path, Path] | None = None  # PEM of certificate and key: serve TLS
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 << 20
    max_tokens: int | None = None  # the longest answer that a request may ask for
    max_requests: int = 1024  # in flight in one worker
    body_timeout_s: float = 30.0
    exit_timeout_s: float = 30.0
    logs_requests: bool = True

    @property
    def url(self) -> str:
        """Where clients on this machine find it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"http{'s' if self.certificate else ''}://{bracketed}:{self.port}"
