"""How many tokens and sequences fit a GPU's memory, chosen by arithmetic, with the reason in words.

Memory of one GPU = weights + activations of one forward pass + CUDA graphs + the runtime itself,
and the KV cache gets a share of what is left. Figures: TensorRT-LLM's KvCacheConfig and
CudaGraphConfig documentation ("each CUDA graph can use up to 200 MB", 90 % of free memory).
"""

from __future__ import annotations

from dataclasses import dataclass

from checkpoints.llama_config import LlamaConfig
from host.console import BuildError

from engines.engine_json import Limits

GIB = 2**30
RUNTIME_BYTES = 2 * GIB  # CUDA context, NCCL, workspaces of the kernels
GRAPH_BYTES = 200 * 2**20  # each captured batch size, at most
GRAPHS = 8  # batch sizes 1, 2, 4, ... 128
KV_SHARE = 0.9
KV_BYTES = 1  # FP8
LONGEST = 32768  # of one request, where the memory allows more: prompts of many pages
LARGEST_BATCH = 256
USUAL_TOKENS = 2048  # of one request, prompt and answer: what a batch is sized by
FORWARD_TOKENS = 8192  # TensorRT-LLM's own default of max_num_tokens


@dataclass(frozen=True)
class GpuFit:
    """What fits, and why: a line for the KV cache, and one for each limit by its name."""

    max_seq_len: int
    max_batch_size: int
    max_num_tokens: int
    kv_cache_tokens: int
    kv_cache_reason: str
    reasons: dict[str, str]

    def check(self, max_seq_len: int) -> None:
        """Raise `BuildError` unless the longest request that is admitted fits the KV cache."""
        if max_seq_len > self.kv_cache_tokens:
            raise BuildError(
                f"max_seq_len is {max_seq_len}, allowed is at most {self.kv_cache_tokens}: "
                f"{self.kv_cache_reason}"
            )

    def reasons_for(self, limits: Limits) -> tuple[str, ...]:
        """Why the limits are what they are; those that somebody stated are said to be stated."""
        lines = [self.kv_cache_reason]
        for name, reason in self.reasons.items():
            value, chosen = getattr(limits, name), getattr(self, name)
            stated = f"as stated (this memory alone would give {chosen})"
            lines.append(f"{name} {value}: {reason if value == chosen else stated}")
        return tuple(lines)


def fit_gpu(
    llama: LlamaConfig,
    weight_bytes: int,
    memory_bytes: int,
    parallel: int = 1,
    kv_share: float = KV_SHARE,
) -> GpuFit:
    """Choose limits for `parallel` GPUs of `memory_bytes` each, which share weights and heads;
    the KV cache gets `kv_share` of what is left.

    Raises `BuildError` if nothing fits.
    """
    weights = weight_bytes / parallel
    activations = _activation_bytes(llama, FORWARD_TOKENS) / parallel
    fixed = weights + activations + GRAPHS * GRAPH_BYTES + RUNTIME_BYTES
    left = memory_bytes - fixed
    per_token = llama.kv_values_per_token * KV_BYTES / parallel
    tokens = int(kv_share * left / per_token)
    if tokens < USUAL_TOKENS:
        raise BuildError(
            f"a GPU of {memory_bytes / GIB:.1f} GiB is too small: weights {weights / GIB:.1f}, "
            f"activations {activations / GIB:.1f}, CUDA graphs {GRAPHS * GRAPH_BYTES / GIB:.1f} "
            f"and the runtime {RUNTIME_BYTES / GIB:.1f} GiB leave {max(0, left) / GIB:.1f} GiB; "
            "use a larger GPU or a higher tensor_parallel_size"
        )
    seq_len = min(llama.max_position_embeddings, LONGEST, tokens)
    batch = max(1, min(LARGEST_BATCH, tokens // USUAL_TOKENS))
    kv_cache = (
        f"KV cache of {tokens} tokens: {memory_bytes / GIB:.1f} GiB less weights "
        f"{weights / GIB:.1f}, activations {activations / GIB:.1f}, CUDA graphs "
        f"{GRAPHS * GRAPH_BYTES / GIB:.1f} and the runtime {RUNTIME_BYTES / GIB:.1f} GiB, "
        f"{kv_share:.0%} of the rest at {per_token / 1024:.0f} KiB a token (FP8)"
    )
    reasons = {
        "max_seq_len": f"the least of the model's {llama.max_position_embeddings}, {LONGEST} and "
        "the KV cache",
        "max_batch_size": f"the KV cache holds so many requests of {USUAL_TOKENS} tokens "
        f"(at most {LARGEST_BATCH})",
        "max_num_tokens": "longer prompts are computed in chunks of it",
    }
    return GpuFit(seq_len, batch, FORWARD_TOKENS, tokens, kv_cache, reasons)


def _activation_bytes(llama: LlamaConfig, tokens: int) -> float:
    """BF16: residual, attention and the two halves of the MLP at once; logits of a full batch."""
    q_size = llama.num_attention_heads * llama.head_dim
    layer = tokens * 2 * (2 * llama.hidden_size + 2 * q_size + 2 * llama.intermediate_size)
    return layer + LARGEST_BATCH * llama.vocab_size * 4
