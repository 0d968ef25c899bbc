"""A real tritonserver with upstream's tensors, answered by a few lines of Python."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_fp4 import Client
from serving.child_server import Ports, free_ports
from serving.find_triton import find_triton
from serving.processes import end_with_parent, region_option, remove_leftovers

from tests.support.processes import eventually
from tests.support.upstream_contract import BLS_INPUTS, ENSEMBLE_INPUTS, ENSEMBLE_OUTPUTS, tensors

MODEL = Path(__file__).with_name("upstream_words.py")
# TensorRT-LLM triton_backend/all_models/llmapi/tensorrt_llm/config.pbtxt
LLMAPI_INPUTS = """
text_input STRING -1
streaming BOOL 1
sampling_param_best_of INT32 1
sampling_param_temperature FP32 1
sampling_param_top_k INT32 1
sampling_param_top_p FP32 1
sampling_param_frequency_penalty FP32 1
sampling_param_presence_penalty FP32 1
sampling_param_max_tokens INT32 1
sampling_param_seed UINT64 1
sampling_param_stop STRING -1
sampling_param_exclude_input_from_output BOOL 1
sampling_param_return_perf_metrics BOOL 1
return_finish_reason BOOL 1
return_stop_reason BOOL 1
return_cumulative_logprob BOOL 1
stop BOOL 1
"""
LLMAPI_OUTPUTS = """
text_output STRING -1
finish_reason STRING -1
stop_reason STRING -1
cumulative_logprob FP32 -1
"""
MODELS = {
    "ensemble": (64, ENSEMBLE_INPUTS, ENSEMBLE_OUTPUTS),
    "tensorrt_llm_bls": (64, BLS_INPUTS, ENSEMBLE_OUTPUTS),
    "tensorrt_llm": (0, LLMAPI_INPUTS, LLMAPI_OUTPUTS),
}


def write_repository(folder: Path) -> None:
    """Upstream's three models that take text."""
    for name, (batch, inputs, outputs) in MODELS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        shutil.copy(MODEL, version / "model.py")
        text = f'name: "{name}"\nbackend: "python"\nmax_batch_size: {batch}\n'
        text += "model_transaction_policy { decoupled: true }\n"
        text += "instance_group [ { kind: KIND_CPU count: 4 } ]\n"
        for kind, lines, end in (("input", inputs, " optional: true"), ("output", outputs, "")):
            for tensor, (datatype, dims) in tensors(lines).items():
                text += f'{kind} {{ name: "{tensor}" data_type: TYPE_{datatype} '
                text += f"dims: {list(dims)}{end} }}\n"
        (folder / name / "config.pbtxt").write_text(text)


@contextlib.contextmanager
def upstream_server(folder: Path, more: Sequence[str] = ()) -> Iterator[Ports]:
    """Runs until the block ends; `more` are arguments of tritonserver."""
    write_repository(folder / "repository")
    triton = find_triton(folder / "staging")
    ports = free_ports()
    command = [str(triton.binary), f"--model-repository={folder / 'repository'}"]
    for name in ("http", "grpc", "metrics"):
        command += [f"--{name}-address=127.0.0.1", f"--{name}-port={getattr(ports, name)}"]
    if triton.backend_directory is not None:
        command.append(f"--backend-directory={triton.backend_directory}")
    name = f"upstream-{os.getpid()}-{ports.grpc}"
    command.append(region_option(name))
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *more],
            env={**os.environ, **triton.environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        with Client(f"http://{ports.url('http')}") as client:
            eventually(client.is_ready, "the server is ready")
        yield ports
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        remove_leftovers(process.pid, name, 5.0)
