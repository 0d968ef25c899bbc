"""Two numbers -> one request, ready to send."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from tests.fuzzing import wire_changes  # noqa: F401  # registers its changes
from tests.fuzzing.changes import ANY, CHANGES, JSON, RAW, TENSORS
from tests.fuzzing.drafts import ALL_ENTRIES, CONTENTS, NUMPY, WEIGHTS, Case, Draft, Entry, Tensor
from tests.fuzzing.right_requests import right_request

LONG = 1500  # tokens of an answer that is not waited for
LARGEST_JSON = 2**24  # elements that a shape in JSON claims to have


def make_case(seed: int, index: int, leaving: bool = False) -> Case:
    """Request number `index`. With `leaving`, its client may go before the answer is whole."""
    rng = random.Random(f"{seed} {index}")
    (entry,) = rng.choices(ALL_ENTRIES, WEIGHTS)
    possible = [function for function, (_, wires) in CHANGES.items() if carries(entry, wires)]
    weights = [CHANGES[function][0] for function in possible]
    count = rng.choices([0, 1, 2, 3], [12, 60, 18, 10])[0]
    chosen = rng.choices(possible, weights, k=count)
    what = tuple(function.__name__ for function in chosen)
    leave_after = rng.choice([None, 0, 1, 2]) if leaving and may_leave(entry, what) else None
    draft = right_request(rng, entry, rng.randrange(1, 9) if leave_after is None else LONG)
    sure = [function(rng, draft) for function in chosen if draft.tensors]
    sequences = draft.find("num_return_sequences")
    payload, headers = encoded(rng, entry, draft)
    return Case(
        seed, index, entry, what,
        expect="answer" if not what else "refusal" if sure == [True] else "either",
        sequences=draft.rows * (sequences.values[0] if sequences and not what else 1),
        named=draft.parameters.get("named_errors") is True and not draft.is_garbled,
        payload=payload,
        path=path_of(entry, draft),
        headers=headers | draft.headers,
        method=draft.method,
        leave_after=leave_after,
    )  # fmt: skip


def may_leave(entry: Entry, what: tuple[str, ...]) -> bool:
    """Triton 2.51 crashes now and then when a gRPC call is cancelled just as it ends
    (github.com/triton-inference-server/server/issues/7368): only long calls are left early."""
    is_long = not what and entry.model not in ("preprocessing", "postprocessing")
    return entry.is_http or (is_long and not (entry.model == "ensemble" and entry.wire == "unary"))


def carries(entry: Entry, wires: str) -> bool:
    """Whether an entry's wire can carry a change of that kind."""
    says_tensors = not entry.wire.startswith("generate")
    kinds = {ANY: True, TENSORS: says_tensors, JSON: entry.is_http, RAW: not entry.is_http}
    return kinds[wires]


def path_of(entry: Entry, draft: Draft) -> str:
    """The HTTP path; the model's name may hold anything."""
    escape = str.maketrans({"é": "%C3%A9", " ": "%20"})
    version = f"/versions/{draft.version}" if draft.version else ""
    return f"/v2/models/{draft.target}{version}/{entry.wire}".translate(escape)


def encoded(rng: random.Random, entry: Entry, draft: Draft) -> tuple[bytes, dict[str, str]]:
    """The request's bytes, and the headers that go with them."""
    if not entry.is_http:
        return draft.mangle(as_protobuf(draft).SerializeToString()), {}
    if entry.wire != "infer":
        body = {tensor.name: json_value(tensor) for tensor in draft.tensors} | draft.parameters
        return draft.mangle(as_json(rng, body)), {}
    binary = b""
    inputs = []
    for tensor in draft.tensors:
        # Triton 2.51 allocates what a JSON tensor's shape says before it looks at the data.
        shape = tensor.shape if math.prod(tensor.shape) < LARGEST_JSON else [LARGEST_JSON, 1]
        item: dict[str, Any] = {"name": tensor.name, "shape": shape}
        item["datatype"] = tensor.datatype.rstrip("*")
        item["parameters"] = dict(tensor.parameters)
        if rng.random() < 0.3 and not tensor.datatype.endswith("*"):
            binary += tensor.packed()
            item["parameters"]["binary_data_size"] = len(tensor.packed()) + draft.binary_change
        else:
            item["data"] = [json_scalar(value) for value in tensor.values]
        inputs.append(item)
    outputs = [{"name": name, "parameters": more} for name, more in draft.outputs]
    body = {"inputs": inputs, "parameters": draft.parameters, "id": draft.id}
    body |= {"outputs": outputs} if outputs else {}
    text = draft.mangle(as_json(rng, body))
    headers = {"Inference-Header-Content-Length": str(len(text))} if binary else {}
    return text + binary, headers


def as_json(rng: random.Random, value: Any) -> bytes:
    """JSON; a lone surrogate in it is an escape, or bytes that are no UTF-8."""
    escaped = rng.random() < 0.5
    return json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")


def json_value(tensor: Tensor) -> Any:
    """As `generate` takes it: the batch dimension is Triton's."""
    values = [json_scalar(value) for value in tensor.values]
    return values[0] if len(values) == 1 else values


def json_scalar(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def as_protobuf(draft: Draft) -> Any:
    """The KServe message, without values that protobuf refuses to hold."""
    request = service_pb2.ModelInferRequest(
        model_name=draft.target, model_version=draft.version, id=draft.id
    )
    set_parameters(request, draft.parameters)
    for tensor in draft.tensors:
        item = request.inputs.add(name=tensor.name, shape=[wrap(size) for size in tensor.shape])
        item.datatype = tensor.datatype
        set_parameters(item, tensor.parameters)
        if draft.typed and tensor.datatype in CONTENTS and tensor.raw is None:
            kind = np.dtype(NUMPY.get(tensor.datatype, "O"))
            values = [fitting(value, kind) for value in tensor.values]
            getattr(item.contents, CONTENTS[tensor.datatype]).extend(values)
        elif "shared_memory_region" not in tensor.parameters:
            request.raw_input_contents.append(tensor.packed())
    if draft.raw_change > 0:
        request.raw_input_contents.append(b"\0\0\0\0")
    elif draft.raw_change < 0 and request.raw_input_contents:
        del request.raw_input_contents[-1]
    for name, parameters in draft.outputs:
        set_parameters(request.outputs.add(name=name), parameters)
    return request


def fitting(value: Any, kind: Any) -> Any:
    """A value that protobuf's Python takes for a field of that kind."""
    if kind.kind not in "iu":
        return value
    info = np.iinfo(kind)
    return max(int(info.min), min(int(info.max), int(value)))


def wrap(size: int) -> int:
    return (size + 2**63) % 2**64 - 2**63


def set_parameters(message: Any, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
        setattr(message.parameters[name], kinds[type(value)], value)
