"""OpenAI's API before one Triton server: `llama-fp4 gateway`. Needs the extra `gateway`."""
