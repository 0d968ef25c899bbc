"""Calls that the project's client does not make: to any model, with any tensor."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from serving.child_server import ServerProcess
from tritonclient.utils import np_to_triton_dtype

HTTP_TIMEOUT_S = 60.0
NAMED = {"named_errors": True}  # an error's message begins with its code
Arrays = dict[str, npt.NDArray[Any]]


def infer_inputs(arrays: Arrays) -> list[triton.InferInput]:
    """The arrays as tritonclient takes them."""
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array))
    return inputs


def stream(
    server: ServerProcess, model: str, arrays: Arrays, request_id: str = ""
) -> Iterator[tuple[Arrays, bool]]:
    """The responses of one request, as (tensors by name, final flag), by upstream's own client."""
    responses: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
    with triton.InferenceServerClient(server.ports.url("grpc")) as client:
        client.start_stream(lambda result, error: responses.put((result, error)))
        client.async_stream_infer(
            model, infer_inputs(arrays), request_id=request_id, parameters=NAMED
        )
        final = False
        while not final:
            result, error = responses.get()
            if error is not None:
                raise error
            response = result.get_response()
            final = response.parameters["triton_final_response"].bool_param
            yield {output.name: result.as_numpy(output.name) for output in response.outputs}, final


def infer(server: ServerProcess, model: str, arrays: Arrays) -> Arrays:
    """The one response of a unary gRPC call, tensors by name."""
    with triton.InferenceServerClient(server.ports.url("grpc")) as client:
        result = client.infer(model, infer_inputs(arrays), parameters=NAMED)
    return {o.name: result.as_numpy(o.name) for o in result.get_response().outputs}


def failure(call: Callable[[], Any]) -> tuple[str, str]:
    """(code, message) of the error that `call` ends with; ("", "") if it ends with none."""
    try:
        call()
    except triton.InferenceServerException as error:
        code, bracket, _ = error.message().partition("[")[2].partition("] ")
        return code if bracket else "none", error.message()
    return "", ""


def generate_tokens(
    server: ServerProcess, prompt_ids: list[int], max_tokens: int, **options: Any
) -> tuple[list[int], str]:
    """Token ids and finish reason from the `tensorrt_llm` model, streaming."""
    arrays: Arrays = {
        "input_ids": np.array([prompt_ids], np.int32),
        "input_lengths": np.array([[len(prompt_ids)]], np.int32),
        "request_output_len": np.array([[max_tokens]], np.int32),
        "streaming": np.array([[True]]),
        **options,
    }
    tokens: list[int] = []
    for tensors, final in stream(server, "tensorrt_llm", arrays):
        tokens += tensors["output_ids"].reshape(-1).tolist()
        if final:
            return tokens, tensors["finish_reason"].reshape(-1)[0].decode()
    raise AssertionError("no final response")


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """(HTTP status, body) of a POST of JSON."""
    request = urllib.request.Request(
        f"http://{server.ports.url('http')}{path}", json.dumps(body).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
