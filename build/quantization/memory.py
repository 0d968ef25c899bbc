"""How much memory a quantization takes at its peak, from the model's shape.

Measured on a CPU with 1.2 billion parameters: 4.0 GB resident while exporting, of which the mapped
source is 2.5 GB. Without gradients nothing else is of the size of the model.
"""

from __future__ import annotations

import math

from checkpoints.layout import linear_shapes

from quantization.source_model import SourceModel

RUNTIME_BYTES = 600_000_000  # Python with torch, transformers and modelopt
EXPORT_BYTES = 32  # for each number of the largest linear while modelopt packs it
PACKED_BYTES = 9 / 16  # for each number of a packed linear: four bits, and a scale for sixteen
TOKENS_AT_ONCE = 4096  # in a perplexity, padding included: each layer is read once for so many
ROUNDING_VALUES = 10  # f32 numbers at a time for each activation that is rounded


def memory_needed(source: SourceModel) -> int:
    """Bytes, on the device that computes."""
    return RUNTIME_BYTES + max(_exporting(source), _measuring(source))


def _exporting(source: SourceModel) -> int:
    """The BF16 model beside what is packed already. Calibrating takes less."""
    sizes = [math.prod(shape) for shape in linear_shapes(source.config).values()]
    packed = int(source.config.num_hidden_layers * sum(sizes) * PACKED_BYTES)
    return source.data_bytes + packed + max(sizes) * EXPORT_BYTES


def _measuring(source: SourceModel) -> int:
    """Embedding, head and one layer in f32, and the activations of some texts."""
    config = source.config
    ends = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    sizes = [math.prod(shape) for shape in linear_shapes(config).values()]
    activations = TOKENS_AT_ONCE * config.intermediate_size * ROUNDING_VALUES
    return 4 * (ends + sum(sizes) + max(sizes) + activations)
