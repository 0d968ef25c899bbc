"""A gRPC client of the Llama FP4 ensemble: text or chat messages in, streamed text out."""

from llama_fp4.client import Chunk, Client, LlamaError

__all__ = ["Chunk", "Client", "LlamaError"]
