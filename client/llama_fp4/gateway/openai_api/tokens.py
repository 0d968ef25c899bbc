"""`/tokenize` and `/detokenize`, through the server's own rooms; the names are vLLM's."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.responses import Response

from llama_fp4.errors import LlamaError
from llama_fp4.gateway.errors import ApiError, of_server, wrong
from llama_fp4.gateway.exchange import Call
from llama_fp4.gateway.openai_api.endpoints import Context, json_response
from llama_fp4.gateway.openai_api.fields import Body, only, parse
from llama_fp4.gateway.openai_api.sampling import renamed

MAX_IDS = 1 << 20
NAMES = {"text_input": "prompt", "TOKENS_BATCH": "tokens"}


class TokenizeRequest(Body):
    """A prompt or messages, as for a completion or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    return_token_strs: bool | None = None
    add_special_tokens: only(True, why="a prompt gets one begin-of-text token") = None  # type: ignore[valid-type]
    add_generation_prompt: only(True, why="an answer is always begun") = None  # type: ignore[valid-type]


class DetokenizeRequest(Body):
    """Token ids."""

    model: str | None = None
    tokens: list[int] = Field(max_length=MAX_IDS)
    skip_special_tokens: bool | None = None


async def answer_tokenize(context: Context, call: Call) -> Response:
    """The token ids of text or messages."""
    request = parse(TokenizeRequest, call.body)
    if request.model is not None:
        context.check_model(request.model)
    prompt = request.messages if request.prompt is None else request.prompt
    if prompt is None or (request.prompt is not None and request.messages is not None):
        raise wrong("prompt", "exactly one of prompt and messages must be given")
    try:
        found = await context.backend.tokenize(prompt, request.tools or ())
        texts = None
        if request.return_token_strs:
            texts = [await context.backend.detokenize([each]) for each in found.ids]
    except LlamaError as error:
        raise _shown(error, "messages" if request.prompt is None else "prompt") from None
    document = {"count": len(found.ids), "max_model_len": found.max_model_len}
    return json_response(document | {"tokens": list(found.ids), "token_strs": texts})


async def answer_detokenize(context: Context, call: Call) -> Response:
    """The text of token ids, with the special ones unless they are skipped."""
    request = parse(DetokenizeRequest, call.body)
    if request.model is not None:
        context.check_model(request.model)
    if not request.tokens:
        return json_response({"prompt": ""})
    for token in request.tokens:
        if not 0 <= token < 2**31:
            raise wrong("tokens", f"tokens must hold ids of the vocabulary, not {token}")
    try:
        text = await context.backend.detokenize(request.tokens, not request.skip_special_tokens)
    except LlamaError as error:
        raise _shown(error, "tokens") from None
    return json_response({"prompt": text})


def _shown(error: LlamaError, param: str) -> ApiError:
    """The server's refusal, in the names that the request has for the rooms' inputs."""
    shown = of_server(error, param)
    shown.message = renamed(shown.message, NAMES)
    return shown
