"""A gRPC server that plays one recorded answer of the ensemble, faster than a client can read.

The ensemble puts tokens together when it is the slower side, so it cannot keep a client busy. Here
the responses are its own bytes, and whoever reads them is the bottleneck.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """`playback_server.py FILE`: prints its port and serves until its standard input ends."""
    server = grpc.server(ThreadPoolExecutor(32), handlers=[_Player(Path(sys.argv[1]))])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
