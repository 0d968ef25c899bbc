"""How good an exported NVFP4 folder is: its weight errors and perplexity against the BF16 source.

The perplexity is computed in f32 from the bytes on the disk, with one decoder layer in memory at a
time. The variants differ in the quantization alone. The KV cache is not quantized.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from checkpoints.layout import layer_prefix, linear_shapes
from host.console import BuildError, Phase
from torch.nn import functional
from transformers import LlamaForCausalLM

from quantization.device import TOKENS_AT_ONCE
from quantization.report import LinearError
from quantization.source_model import SourceModel
from quantization.torch_checkpoint import Llama, StoredWeights, transformers_config

LOGITS_AT_ONCE = 256  # tokens whose logits over the vocabulary are in memory together


def weight_errors(source: SourceModel, folder: Path, device: torch.device) -> list[LinearError]:
    """The error of every quantized linear, computed in f32 on `device`."""
    before, after = StoredWeights(source.directory, device), StoredWeights(folder, device)
    errors: list[LinearError] = []
    linears = list(linear_shapes(source.config))
    with Phase("weight error", source.config.num_hidden_layers, "layer") as phase:
        for layer in range(source.config.num_hidden_layers):
            for linear in linears:
                name = f"{layer_prefix(layer)}{linear}.weight"
                wanted = before.weight(name)
                error = _square_sum(after.weight(name) - wanted)
                errors.append(LinearError(layer, linear, error, _square_sum(wanted)))
            phase.advance(1)
    return errors


def _square_sum(values: torch.Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))


def perplexities(
    source: SourceModel, folder: Path, texts: list[list[int]], device: torch.device
) -> dict[str, float]:
    """Perplexities of the source, and of `folder` with and without rounded activations."""
    variants = (
        ("BF16", source.directory, False),
        ("NVFP4 W4A16", folder, False),
        ("NVFP4 W4A4", folder, True),
    )
    return {
        name: perplexity(name, directory, texts, device, activations)
        for name, directory, activations in variants
    }


class StreamedLlama:
    """The model with its embedding, last norm and head in memory, its layers on the disk.

    With `activations`, the quantized linears round their inputs: W4A4, else W4A16.
    """

    def __init__(self, directory: Path, device: torch.device, activations: bool) -> None:
        self._weights = StoredWeights(directory, device)
        self._device = device
        factory: Any = LlamaForCausalLM
        with init_empty_weights():
            self._model: Llama = factory(transformers_config(directory, "float32")).eval()
        for index, layer in enumerate(self._model.model.layers):
            self._stream(layer, layer_prefix(index))
            if activations:
                self._weights.round_inputs(layer, layer_prefix(index))
        self._load(self._model.model.embed_tokens, "model.embed_tokens.")
        self._load(self._model.model.norm, "model.norm.")
        self._model.model.rotary_emb.to(device)
        tied = self._model.config.tie_word_embeddings and "lm_head.weight" not in self._weights
        self._head = (
            self._model.model.embed_tokens.weight
            if tied
            else self._weights.weight("lm_head.weight")
        )

    def _load(self, module: torch.nn.Module, prefix: str) -> None:
        names = list(module.state_dict())
        values = {name: self._weights.weight(prefix + name) for name in names}
        module.load_state_dict(values, assign=True)

    def _stream(self, layer: torch.nn.Module, prefix: str) -> None:
        """Load the layer before its forward pass and free its weights after it."""

        def load(module: torch.nn.Module, _: Any) -> None:
            self._load(module, prefix)

        def free(module: torch.nn.Module, _: Any, __: Any) -> None:
            module.to("meta")

        layer.register_forward_pre_hook(load)
        layer.register_forward_hook(free)

    def loss(self, texts: list[list[int]]) -> float:
        """Sum of the cross entropy (nats) of every token after the first of each text."""
        width = max(map(len, texts))
        # Padded on the right, where causal attention never looks.
        padded = torch.tensor([ids + [0] * (width - len(ids)) for ids in texts])
        with torch.inference_mode():
            hidden = self._model.model(padded.to(self._device), use_cache=False).last_hidden_state
            return sum(self._text_loss(row, ids) for row, ids in zip(hidden, texts, strict=True))

    def _text_loss(self, hidden: torch.Tensor, ids: list[int]) -> float:
        targets = torch.tensor(ids[1:], device=self._device)
        total = 0.0
        for states, wanted in zip(
            hidden[: len(ids) - 1].split(LOGITS_AT_ONCE), targets.split(LOGITS_AT_ONCE), strict=True
        ):
            logits = functional.linear(states, self._head)
            total += float(functional.cross_entropy(logits, wanted, reduction="sum"))
        return total


def perplexity(
    name: str, directory: Path, texts: list[list[int]], device: torch.device, activations: bool
) -> float:
    """Perplexity of every token after the first of each text; `name` is for the progress line."""
    measured = sorted((ids for ids in texts if len(ids) > 1), key=len)
    count = predicted_tokens(texts)
    if not count:
        raise BuildError("the held-out texts have one token each; give longer ones in --eval-data")
    model = StreamedLlama(directory, device, activations)
    total = 0.0
    with Phase(f"perplexity of {name}", len(measured), "text") as phase:
        for group in _groups(measured):
            total += model.loss(group)
            phase.advance(len(group))
    del model
    gc.collect()  # its hooks refer to it in a circle: the embedding would stay in memory
    return float(torch.tensor(total / count, dtype=torch.float64).exp())


def predicted_tokens(texts: list[list[int]]) -> int:
    """How many tokens a perplexity covers."""
    return sum(max(0, len(ids) - 1) for ids in texts)


def _groups(texts: list[list[int]]) -> list[list[list[int]]]:
    """Texts of similar length together, at most TOKENS_AT_ONCE tokens with their padding."""
    groups: list[list[list[int]]] = []
    for ids in texts:
        if groups and (len(groups[-1]) + 1) * len(ids) <= TOKENS_AT_ONCE:
            groups[-1].append(ids)
        else:
            groups.append([ids])
    return groups
