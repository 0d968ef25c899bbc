"""The alarm: one logit more than the vocabulary has, the largest where the others mean nothing.

OpenVINO GenAI (2026.4) chooses token 0 where all logits are NaN, as if it were the likeliest. So
the graph replaces a row of hidden states that is not finite by one whose logits are, and whose
alarm is chosen however the token is: greedily, or drawn with any temperature, penalty, top_k or
top_p. The engine then reads the token id `vocab_size`, which no checkpoint has.

The alarm is a row of the LM head and an entry of its bias, so it takes no operation of its own:

    alarm = WEIGHT * hidden[0] - HEIGHT

That is at most -HEIGHT / 2 for a sound row, and HEIGHT for the row that replaces an unsound one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from checkpoints.nvfp4 import EMBEDDING, HEAD, Checkpoint
from checkpoints.safetensors_file import Bytes

ALARMS = 1  # rows of the LM head, and logits, beside the vocabulary's
# Powers of two: exact in BF16. HEIGHT times 1e15, the engine's widest factor, is finite in F32; an
# alarm divided by as much still outweighs everything else.
HEIGHT = 2.0**76
LARGEST = 2.0**22  # of a sound row's absolute values, summed up; real models have about 1e4
INSTEAD = 2.0**24  # the first value of the row that replaces an unsound one; the others are 0
WEIGHT = 2 * HEIGHT / INSTEAD


def with_alarm(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the alarm's row below its LM head (or the embedding that is its head)."""
    name = EMBEDDING if checkpoint.config.tie_word_embeddings else HEAD
    head = checkpoint.tensors[name]
    rows, columns = head.shape
    data = np.concatenate([head.data, _alarm_row(columns)])
    tensors = {**checkpoint.tensors, name: replace(head, shape=(rows + ALARMS, columns), data=data)}
    return replace(checkpoint, tensors=tensors)


def alarm_bias(rows: int) -> npt.NDArray[np.float32]:
    """Of an LM head with the alarm: [rows]."""
    bias = np.zeros(rows, np.float32)
    bias[-1] = -HEIGHT
    return bias


def unsound_row(columns: int) -> npt.NDArray[np.float32]:
    """The hidden states that stand in for a row that is not finite: [columns]."""
    row = np.zeros(columns, np.float32)
    row[0] = INSTEAD
    return row


def _alarm_row(columns: int) -> Bytes:
    """In BF16, the upper half of F32."""
    row = np.zeros(columns, np.float32)
    row[0] = WEIGHT
    return (row.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
