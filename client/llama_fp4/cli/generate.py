"""`llama-fp4 generate`: one prompt, and its answer as it comes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from llama_fp4.answers import Chunk, Completion
from llama_fp4.cli.options import (
    ServerOptions,
    add_sampling_options,
    add_server_options,
    check_text,
    sampling_params,
    server_options,
)
from llama_fp4.cli.output import OK, note, say, say_json
from llama_fp4.cli.wrap import Wrapped
from llama_fp4.errors import Cancelled, InvalidRequest
from llama_fp4.model_contract import Prompt
from llama_fp4.sampling import SamplingParams
from llama_fp4.stream import Stream

AS_MANY = "as many as the context has room for"
FULL = "the answer ended where the context did"
DEFAULT_TOKENS = SamplingParams().max_tokens
ENDS = {"length": "the answer ended at --max-tokens", "timeout": "the answer ended at --timeout-ms"}


@dataclass(frozen=True)
class GenerateOptions:
    """`prompt` None or "-" is standard input; `streamed` None: if the model does."""

    server: ServerOptions
    params: SamplingParams
    prompt: str | None
    chat: bool
    system: str | None
    streamed: bool | None


def add_generate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `llama-fp4 generate`."""
    parser.usage = f"{parser.prog} [options] [PROMPT]"
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="raw text; standard input if missing or -"
    )
    parser.add_argument("--chat", action="store_true", help="PROMPT is a user's message")
    parser.add_argument("--system", metavar="TEXT", help="system message; implies --chat")
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="print text as it comes (default where the model streams, but not with --json); with "
        "--json one line for each chunk",
    )
    add_server_options(parser)
    add_sampling_options(parser, f"{DEFAULT_TOKENS}, with --chat {AS_MANY}")


def generate_options(given: argparse.Namespace) -> GenerateOptions:
    """Raises `InvalidRequest`."""
    chat = given.chat or given.system is not None
    params = sampling_params(given, open_ended=chat)
    server = server_options(given)
    streamed = False if server.as_json and given.stream is None else given.stream
    return GenerateOptions(server, params, given.prompt, chat, given.system, streamed)


def run_generate(options: GenerateOptions) -> int:
    """Raises `LlamaError`; leaving in any way ends the request on the server."""
    as_json, streamed, params = options.server.as_json, options.streamed, options.params
    prompt = messages_or_text(options)
    with (
        options.server.client() as client,
        client.stream(prompt, params, stream=streamed) as stream,
    ):
        _print_chunks(stream, as_json, bool(streamed))
    completion = stream.completion
    if completion.finish_reason == "cancelled":
        raise Cancelled("the request was cancelled on the server", request_id=stream.request_id)
    if as_json and not streamed:
        say_json(completion_json(completion))
    elif not as_json and sys.stderr.isatty() and (end := end_of(completion, params)):
        note(f"[{end}]")
    return OK


def end_of(completion: Completion, params: SamplingParams) -> str:
    """Why the answer was cut off; "" if it was not."""
    if completion.finish_reason == "length" and params.max_tokens is None:
        return FULL
    return ENDS.get(completion.finish_reason, "")


def messages_or_text(options: GenerateOptions) -> Prompt:
    """The prompt or the messages. Raises `InvalidRequest` if there is no text."""
    text = options.prompt
    if text is None or text == "-":
        if sys.stdin.isatty():
            note("the prompt, then Ctrl-D:")
        try:
            text = sys.stdin.buffer.read().decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise InvalidRequest("standard input must be UTF-8") from error
    if not check_text("the prompt", text):
        raise InvalidRequest("the prompt must not be empty")
    if not options.chat:
        return text
    messages = [{"role": "user", "content": text}]
    if options.system is not None:
        system = check_text("--system", options.system)
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _print_chunks(stream: Stream, as_json: bool, streamed: bool) -> None:
    last, answer = "\n", Wrapped()
    try:
        for chunk in stream:
            if not as_json:
                answer.write(chunk.text)
                last = chunk.text[-1:] or last
            elif streamed:
                say_json(chunk_json(chunk, stream.request_id))
    finally:
        answer.flush()
        # An error or the shell's prompt must begin on a new line.
        if not as_json and (last != "\n" or sys.exc_info()[0] is None):
            say()


def chunk_json(chunk: Chunk, request_id: str) -> dict[str, Any]:
    """One line of `--stream --json`; counts as in `Chunk`."""
    return {
        "text": chunk.text,
        "index": chunk.index,
        "final": chunk.final,
        "finish_reason": chunk.finish_reason,
        "stop_reason": chunk.stop_reason,
        "num_output_tokens": chunk.num_output_tokens,
        "num_input_tokens": chunk.num_input_tokens,
        "request_id": request_id,
    }


def completion_json(completion: Completion) -> dict[str, Any]:
    """The one object of `--json`; times in seconds, None where unknown."""
    timing = completion.timing
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
        "num_input_tokens": completion.num_input_tokens,
        "num_output_tokens": completion.num_output_tokens,
        "request_id": completion.request_id,
        "ttft_s": timing.ttft_s,
        "e2e_s": timing.e2e_s,
        "tpot_s": timing.tpot_s,
        "attempts": timing.attempts,
    }
