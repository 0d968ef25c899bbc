"""A server, gRPC and HTTP, that plays one recorded answer of the ensemble faster than clients read.

The ensemble puts tokens together when it is the slower side, so it cannot keep a client busy. Here
the responses are its own bytes, and whoever reads them is the bottleneck.
"""

from __future__ import annotations

import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from host.console import BuildError
from tritonclient.grpc import service_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
RESPONSES = 2000  # of one answer


def record(url: str, path: Path, request: Any) -> None:
    """Keep the model's metadata, a response and the last one of an answer to `request`.

    Raises `BuildError` for an answer that is a refusal.
    """
    with grpc.insecure_channel(url) as channel:
        asked = pb.ModelMetadataRequest(name="ensemble").SerializeToString()
        kept = [channel.unary_unary(SERVICE + "ModelMetadata")(asked)]
        stream: Any = channel.unary_stream(SERVICE + "ModelStreamInfer")
        responses = list(stream(request.SerializeToString()))
    refusal = pb.ModelStreamInferResponse.FromString(responses[0]).error_message
    if refusal:
        raise BuildError(f"the answer to play is an error: {refusal}")
    kept += [responses[0], responses[-1]]
    path.write_text("\n".join(data.hex() for data in kept), encoding="ascii")


def record_http(url: str, path: Path, body: bytes) -> None:
    """As `record`, over HTTP: the model's metadata and configuration, an event and the last one."""
    model = f"http://{url}/v2/models/ensemble"
    kept = []
    for about in (model, f"{model}/config"):
        with urllib.request.urlopen(about) as answer:
            kept.append(answer.read())
    with urllib.request.urlopen(f"{model}/generate_stream", body) as answer:
        events = answer.read().split(b"\n\n")[:-1]
    kept += [events[0] + b"\n\n", events[-1] + b"\n\n"]
    path.write_text("\n".join(data.hex() for data in kept), encoding="ascii")


class _HttpPlayer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    metadata = config = event = last = b""

    def do_GET(self) -> None:
        data = self.config if self.path.endswith("/config") else self.metadata
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in [*[self.event] * (RESPONSES - 1), self.last]:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


class _Player(grpc.GenericRpcHandler):
    def __init__(self, path: Path) -> None:
        lines = path.read_text(encoding="ascii").split("\n")
        self._metadata, self._one, self._last = map(bytes.fromhex, lines)

    def service(self, details: Any) -> Any:
        if details.method == SERVICE + "ModelMetadata":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: self._metadata)
        if details.method != SERVICE + "ModelStreamInfer":
            return None  # unimplemented
        return grpc.stream_stream_rpc_method_handler(self._play)

    def _play(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        next(requests)
        for _ in range(RESPONSES - 1):
            yield self._one
        yield self._last


def main() -> int:
    """`playback_server FILE HTTP_FILE`: prints its ports, serves until standard input ends."""
    server = grpc.server(ThreadPoolExecutor(32), handlers=[_Player(Path(sys.argv[1]))])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    lines = Path(sys.argv[2]).read_text(encoding="ascii").split("\n")
    names = ("metadata", "config", "event", "last")
    handler = type(
        "Player", (_HttpPlayer,), dict(zip(names, map(bytes.fromhex, lines), strict=True))
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        print(port, http.server_port, flush=True)
        sys.stdin.read()
        http.shutdown()
    server.stop(None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
