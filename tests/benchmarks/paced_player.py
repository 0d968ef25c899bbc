"""A gRPC server that plays a recorded response of the ensemble at an exact pace, and writes down
when: the truth that the load test's figures are compared with.

Triton's own times depend on the machine's other work; here the server says what each request got.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from tests.benchmarks.playback_server import SERVICE


class Player(grpc.GenericRpcHandler):
    """`times` holds, by the request's id, when it arrived and when each response was written.

    In seconds since the epoch, as the load test's records are with its header.
    """

    def __init__(self, path: Path, first_s: float, gap_s: float) -> None:
        metadata, one, last = map(bytes.fromhex, path.read_text(encoding="ascii").split("\n"))
        self._metadata, self._one, self._last = metadata, one, last
        self._first_s, self._gap_s = first_s, gap_s
        self.times: dict[str, list[float]] = {}

    def service(self, details: Any) -> Any:
        """gRPC's: the handler of a method."""
        if details.method == SERVICE + "ModelMetadata":
            return grpc.unary_unary_rpc_method_handler(self._describe)
        return grpc.stream_stream_rpc_method_handler(self._play)

    async def _describe(self, request: bytes, context: Any) -> bytes:
        return self._metadata

    async def _play(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        request = pb.ModelInferRequest.FromString(await anext(requests))
        arrived = perf_counter()
        names = [tensor.name for tensor in request.inputs]
        packed = request.raw_input_contents[names.index("max_tokens")]
        tokens = int.from_bytes(packed[:4], "little")
        times = self.times[request.id] = [time.time()]
        for number in range(tokens):
            due = arrived + self._first_s + number * self._gap_s
            await asyncio.sleep(max(due - perf_counter(), 0))
            times.append(time.time())
            yield self._one if number < tokens - 1 else self._last


async def serve(options: argparse.Namespace) -> None:
    """Print the port, serve until the standard input ends, write the times."""
    player = Player(options.file, options.first_s, options.gap_s)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((player,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, input)
    await server.stop(None)
    options.times.write_text(json.dumps(player.times), encoding="utf-8")


def main() -> None:
    """`paced_player.py FILE TIMES`: the recorded answer, and where the times go."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("times", type=Path)
    parser.add_argument("--first-s", type=float, required=True)
    parser.add_argument("--gap-s", type=float, required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
