"""How upstream's Python clients call: one stream a request, read when the server has closed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from serving.child_server import ServerProcess
from tritonclient.utils import np_to_triton_dtype

from tests.support.triton_calls import Arrays, infer_inputs

Results = list[Any]  # of tritonclient's InferResult
ANSWER_S = 60.0

# One value as upstream's clients send it: [[value]].
text = partial(np.array, dtype=object, ndmin=2)
int32 = partial(np.array, dtype=np.int32, ndmin=2)
uint64 = partial(np.array, dtype=np.uint64, ndmin=2)
float32 = partial(np.array, dtype=np.float32, ndmin=2)
flag = partial(np.array, dtype=np.bool_, ndmin=2)


class UpstreamStream:
    """A gRPC stream that is closed before its responses are read, as upstream's clients do."""

    def __init__(self, server: ServerProcess) -> None:
        self._client = triton.InferenceServerClient(server.ports.url("grpc"))
        self._queue: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        self._kept: list[tuple[Any, Any]] = []

    def send(
        self,
        model: str,
        arrays: Arrays,
        outputs: Sequence[str] = (),
        request_id: str = "",
        parameters: Mapping[str, Any] | None = None,
        empty_final: bool = False,
    ) -> None:
        """Send a request; `outputs` names those wanted, all of the model's by default."""
        self._client.async_stream_infer(
            model,
            infer_inputs(arrays),
            outputs=[triton.InferRequestedOutput(name) for name in outputs] or None,
            request_id=request_id,
            parameters=parameters,
            enable_empty_final_response=empty_final,
        )

    def first(self) -> None:
        """Wait for the first response."""
        self._kept.append(self._queue.get(timeout=ANSWER_S))

    def close(self, cancel: bool = False) -> Results:
        """Wait for the server to end the stream; raises the first error that it answered with."""
        self._client.stop_stream(cancel_requests=cancel)
        while not self._queue.empty():
            self._kept.append(self._queue.get())
        for _, error in self._kept:
            if error is not None:
                raise error
        return [result for result, _ in self._kept]

    def __enter__(self) -> UpstreamStream:
        self._client.start_stream(lambda result, error: self._queue.put((result, error)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()


def answers(server: ServerProcess, model: str, arrays: Arrays, **more: Any) -> Results:
    """All responses to one request on a stream of its own."""
    with UpstreamStream(server) as stream:
        stream.send(model, arrays, **more)
        return stream.close()


def infer(server: ServerProcess, model: str, arrays: Arrays, request_id: str = "") -> Any:
    """tritonclient's InferResult of a plain `infer()` over gRPC."""
    with triton.InferenceServerClient(server.ports.url("grpc")) as client:
        return client.infer(model, infer_inputs(arrays), request_id=request_id)


def plain_infer(
    server: ServerProcess,
    protocol: Any,
    arrays: Arrays,
    binary: bool = True,
    model: str = "tensorrt_llm_bls",
    wanted: Sequence[str] = ("text_output",),
) -> Any:
    """`infer()` of a model by tritonclient.grpc or .http; `binary`: no tensor in JSON; all of the
    model's outputs are wanted if `wanted` names none."""
    http = protocol is not triton
    options = {"binary_data": binary} if http else {}
    with protocol.InferenceServerClient(server.ports.url("http" if http else "grpc")) as client:
        inputs = []
        for name, array in arrays.items():
            tensor = protocol.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            inputs.append(tensor.set_data_from_numpy(array, **options))
        outputs = [protocol.InferRequestedOutput(name, **options) for name in wanted] or None
        return client.infer(model, inputs, outputs=outputs, request_id="0")


def is_final(result: Any) -> bool:
    """Whether the response carries the final flag."""
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


def index_of(result: Any, name: str) -> int:
    """`batch_index` or `sequence_index`, which a response of one row or sequence lacks."""
    value = result.as_numpy(name)
    return 0 if value is None else int(value[0][0])
