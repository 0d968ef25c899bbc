"""Judges answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.fuzzing.drafts import OUTPUTS, Case
from tests.fuzzing.lane import DEADLINE_S, Outcome

LONGEST_MESSAGE = 400  # characters of a refusal
GRPC_NAMES = {"INVALID_ARG": "INVALID_ARGUMENT", "UNSUPPORTED": "UNIMPLEMENTED"}
HTTP_STATUS = {"INVALID_ARG": "400", "NOT_FOUND": "404", "UNSUPPORTED": "501", "UNAVAILABLE": "503"}
REFUSALS = {"INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "UNAVAILABLE", "CANCELLED"}
REFUSALS |= {*HTTP_STATUS.values(), "error_message", "error"}
# Triton 2.51 refuses these itself, before any of our models sees them; with the codes it gives.
GIVEN = "INVALID_ARGUMENT 400"
TRITONS = [
    # gRPC's protobuf: INTERNAL, and HTTP's JSON: 500, though both are the client's mistake.
    (r"Unable to parse request$", "INTERNAL"),
    (r"failed to parse the request JSON buffer|Unable to (parse|set) |attempt to ", "500"),
    (r"failed to get request params|Expected JSON object for|parameter key '", "500"),
    # The way to a model.
    (r"Request for unknown model: |Not Found$", "NOT_FOUND 404 400"),
    (r"(failed to get|invalid) model version", "INVALID_ARGUMENT 400"),
    (r"Method Not Allowed$", "405"),
    (r"Unsupported (content-encoding|compression type)", "415 400 501"),
    (r"inference header size should be|Unable to parse header size", "400"),
    (r"(HTTP end point|ModelInfer RPC) doesn't support models with decoupled", "UNIMPLEMENTED 501"),
    (r"generate expects model to produce exactly 1 response", "400 error"),
    # Inputs, outputs and parameters that do not fit the configuration, or each other.
    (r"\[request id: [^]]*\] \w", "INVALID_ARGUMENT 400"),
    (r"incomplete string (data|length)|unexpected ", GIVEN),
    (r"unable to find data for input|contents field must not be|Input must set only one", GIVEN),
    (r"invalid value|parameter '|parameter keys starting|receiving FP16 data via JSON", GIVEN),
    (
        r"'[^']*' must be specified along with|Unable to find shared memory",
        f"{GIVEN} NOT_FOUND 404",
    ),
    (r"class result not available|'classification' |attempting to request", GIVEN),
    (
        r"string correlation ID cannot|The schema can not convert input",
        f"{GIVEN} UNIMPLEMENTED 501",
    ),
]
TRITONS_PATTERNS = [
    (re.compile(rf"(in ensemble '\w+', )?({pattern})"), frozenset(codes.split()))
    for pattern, codes in TRITONS
]
OF_A_STREAM = {"error_message", "error"}
OF_GENERATE = {"model_name", "model_version", "id", "sequence_id", "sequence_start", "sequence_end"}
CODE = re.compile(r"^(?:in ensemble '\w+', )?\[([A-Z_]+)\] ")
UNCLEAN = re.compile(
    r"Traceback|File \\?\"|/tmp/|/work|/home/|/usr/|/opt/|site-packages|\.py\b|<class|"
    r" object at 0x|object has no|NoneType|ndarray|dtype|np\.\w+\(|\b\w*(?:Error|Exception)\b"
)
GONE = re.compile("connect|Socket closed|GOAWAY|recvmsg|Connection reset")


def faults(case: Case, outcome: Outcome) -> list[str]:
    """The faults of an answer; none if it is right."""
    if case.leave_after is not None:
        return []
    if outcome.broken:
        return [f"no answer: {outcome.broken}"]
    if outcome.code == "DEADLINE_EXCEEDED":
        return [f"no answer in {DEADLINE_S:g} s"]
    if outcome.code == "UNAVAILABLE" and GONE.search(outcome.message):
        return [f"the server is gone: {outcome.message}"]
    if outcome.code == "OK":
        return list(answer_faults(case, outcome))
    return list(refusal_faults(case, outcome))


def refusal_faults(case: Case, outcome: Outcome) -> Iterator[str]:
    """The faults of an error."""
    message, code = outcome.message, outcome.code
    if not message:
        yield f"{code} without a message"
    if UNCLEAN.search(message):
        yield f"the message reveals internals: {message[:600]}"
    if case.expect == "answer" and not cannot_pass(case):
        yield f"a right request is refused with {code}: {message[:600]}"
    allowed = tritons_codes(message)
    if allowed is not None:
        if code not in allowed | OF_A_STREAM:
            yield f"Triton's own refusal has the code {code}: {message[:600]}"
        return
    yield from own_refusal_faults(case, outcome)


def own_refusal_faults(case: Case, outcome: Outcome) -> Iterator[str]:
    """The faults of an error that one of our models sent."""
    message, code = outcome.message, outcome.code
    if code not in REFUSALS:
        yield f"the code is {code}: {message[:600]}"
    if len(message) > LONGEST_MESSAGE:
        yield f"the message has {len(message)} characters: {message[:600]}..."
    if outcome.finals != 1 or outcome.after_final:
        yield f"{outcome.finals} ends, {outcome.after_final} responses after one: {message}"
    named = CODE.match(message)
    if not case.named or case.entry.model == "postprocessing":
        return
    if named is None or named[1] not in HTTP_STATUS:
        yield f"the message does not begin with an allowed code: {message}"
    elif case.entry.wire == "unary" and GRPC_NAMES.get(named[1], named[1]) != code:
        yield f"the code is {code}, the message says another: {message}"
    elif case.entry.wire == "infer" and HTTP_STATUS[named[1]] != code:
        yield f"the status is {code}, the message says another: {message}"


def tritons_codes(message: str) -> frozenset[str] | None:
    """The codes that Triton may give with a message of its own; None if it is not one."""
    return next((codes for pattern, codes in TRITONS_PATTERNS if pattern.match(message)), None)


def cannot_pass(case: Case) -> bool:
    """Whether Triton lets no request through there: a decoupled model has streams only."""
    return case.entry.model in ("ensemble", "tensorrt_llm") and case.entry.wire in (
        "unary",
        "infer",
    )


def answer_faults(case: Case, outcome: Outcome) -> Iterator[str]:
    """The faults of a success."""
    if case.expect == "refusal":
        yield "it is not refused"
    if case.entry.wire == "stream" and "mangled_bytes" in case.what and not outcome.responses:
        return  # Triton silently ends what is no protobuf
    if not outcome.responses:
        yield "success without a response"
    if case.entry.wire != "generate_stream" and (outcome.finals != 1 or outcome.after_final):
        yield f"{outcome.finals} final answers, {outcome.after_final} responses after one"
    for response in outcome.responses:
        if case.entry.wire.startswith("generate"):
            yield from generate_faults(response)
        elif "odd_outputs" not in case.what:  # a classification has a type and shape of its own
            yield from output_faults(case.entry.model, response)
    if case.expect == "answer":
        sequences = sum(ended_sequences(case, response) for response in outcome.responses)
        if sequences != case.sequences:
            yield f"{sequences} sequences were answered, it must be {case.sequences}"


def generate_faults(response: dict[str, Any]) -> Iterator[str]:
    known = {name for outputs in OUTPUTS.values() for name in outputs}
    unknown = response.keys() - known - OF_GENERATE
    if unknown:
        yield f"the answer has {sorted(unknown)}"
    if not isinstance(response.get("text_output", ""), str | list):
        yield f"text_output is {response['text_output']!r}"


def output_faults(model: str, outputs: dict[str, Any]) -> Iterator[str]:
    for name, (datatype, shape) in outputs.items():
        if name not in OUTPUTS[model]:
            yield f"the answer has an output {name}"
            continue
        right, dims = OUTPUTS[model][name]
        dims = dims if name in ("text_output", "OUTPUT") else [-1, *dims]
        fits = len(shape) == len(dims) and all(
            want in (-1, have) for want, have in zip(dims, shape, strict=True)
        )
        if datatype != right or not fits:
            yield f"{name} must be {right} {dims}, not {datatype} {shape}"


def ended_sequences(case: Case, response: dict[str, Any]) -> int:
    """How many sequences a response is the end of."""
    model, wire = case.entry
    if wire.startswith("generate"):
        return 1 if "finish_reason" in response else 0
    if model in ("ensemble", "tensorrt_llm"):
        return 1 if "finish_reason" in response else 0
    name = {"preprocessing": "INPUT_ID", "postprocessing": "OUTPUT"}.get(model, "text_output")
    return int(response[name][1][0]) if name in response else 0
