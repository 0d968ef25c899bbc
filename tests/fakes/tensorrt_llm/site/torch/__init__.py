"""Stands in for torch until the fake `tensorrt_llm` puts its own in its place."""
