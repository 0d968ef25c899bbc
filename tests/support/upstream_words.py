"""Answers on the wire as upstream's models do: the prompt's words, one a response.

`ensemble`'s last response carries the final flag; `tensorrt_llm_bls` sends an empty one after it,
as upstream's executor may; llmapi's `tensorrt_llm` sends the whole text so far each time.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name = json.loads(args["model_config"])["name"]
        self.flat = json.loads(args["model_config"])["max_batch_size"] == 0

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._answer(request)

    def _answer(self, request: Any) -> None:
        sender = request.get_response_sender()
        given = {t.name(): t.as_numpy().reshape(-1) for t in request.inputs()}
        words = given["text_input"][0].decode().split(" ")
        if words[0] == "fail":
            error = pb_utils.TritonError("the engine is broken", pb_utils.TritonError.INTERNAL)
            sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
            return
        flag = given.get("streaming" if self.flat else "stream")
        limit = given["sampling_param_max_tokens" if self.flat else "max_tokens"][0]
        echo = (
            "sampling_param_exclude_input_from_output" if self.flat else "exclude_input_in_output"
        )
        said = "" if echo in given and given[echo][0] else "ECHO "
        texts = [f"{word} " for word in words[: int(limit)]]
        if flag is None or not flag[0]:
            texts = ["".join(texts)]
        for index, text in enumerate(texts):
            said = said + text
            last = index == len(texts) - 1
            if text == "pause ":
                while not request.is_cancelled():
                    time.sleep(0.01)
                sender.send(flags=FINAL)
                return
            whole = self.flat or index == 0
            response = self._response(request, said if whole else text, last)
            empty_follows = self.name == "tensorrt_llm_bls"
            sender.send(response, flags=FINAL if last and not empty_follows else 0)
            if last and empty_follows:
                sender.send(flags=FINAL)

    def _response(self, request: Any, text: str, last: bool) -> Any:
        one: tuple[int, ...] = (1,) if self.flat else (1, 1)
        values: dict[str, Any] = {"text_output": np.array([text.encode()], object)}
        if self.flat:
            values["finish_reason"] = np.array([b"length" if last else b""], object)
        else:
            values["num_output_tokens"] = np.full(one, 1, np.int32)
            values["num_input_tokens"] = np.full(one, 7, np.int32)
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in values.items() if name in wanted]
        )
