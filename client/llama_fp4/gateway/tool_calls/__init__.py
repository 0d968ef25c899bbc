"""Tools of an OpenAI request: their checks, what the model reads and may write, its calls.

    use = read_tool_use(body)              # ToolError names a wrong field
    use.prompt_tools                       # for the ensemble's input `tools`
    guides_for(use)                        # for its guided decoding, if a call must come
    parser = ToolCallParser(use.names, use.parallel)
    parser.feed(text), parser.finish()     # text and calls, as they come

With tools the answer must keep special tokens (`skip_special_tokens` false): `<|python_tag|>`
begins a call.
"""

from llama_fp4.gateway.tool_calls.events import (
    ArgumentsDelta,
    CallBegin,
    CallBroken,
    CallEnd,
    Event,
    TextDelta,
)
from llama_fp4.gateway.tool_calls.guides import Guide, guides_for, refusal_of
from llama_fp4.gateway.tool_calls.parser import ToolCallParser
from llama_fp4.gateway.tool_calls.request import Tool, ToolError, ToolUse, read_tool_use

__all__ = [
    "ArgumentsDelta",
    "CallBegin",
    "CallBroken",
    "CallEnd",
    "Event",
    "Guide",
    "TextDelta",
    "Tool",
    "ToolCallParser",
    "ToolError",
    "ToolUse",
    "guides_for",
    "read_tool_use",
    "refusal_of",
]
