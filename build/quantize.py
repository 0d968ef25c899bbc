"""Quantize a BF16 Llama directory to NVFP4 with nvidia-modelopt; runs on the CPU and on a GPU.

NVFP4 weights and activations in blocks of 16 and FP8 scales for the KV cache: the layout of
nvidia/Llama-3.1-8B-Instruct-FP4. Calibration runs the given texts once through the model.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def read_calibration(path: Path) -> list[str]:
    """The texts of a JSON-lines file of {"text": ...}; raises ValueError for anything else."""
    texts: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            texts.append(str(json.loads(line)["text"]))
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f'{path}:{number} is not a JSON object with "text"') from None
    if not texts:
        raise ValueError(f"{path} has no calibration text")
    return texts


def quantization_recipe() -> dict[str, Any]:
    """modelopt's NVFP4_DEFAULT_CFG with its FP8 rules for the KV cache."""
    import modelopt.torch.quantization as mtq

    recipe: dict[str, Any] = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG)
    recipe["quant_cfg"] += copy.deepcopy(
        [rule for rule in mtq.FP8_KV_CFG["quant_cfg"] if "bmm_quantizer" in str(rule)]
    )
    return recipe


def calibration_ids(model_dir: Path, texts: list[str], max_tokens: int) -> Iterator[list[int]]:
    """Token ids of each text; the texts carry their own begin-of-text token, or get one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    for text in texts:
        has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        ids: list[int] = tokenizer.encode(text, add_special_tokens=not has_bos)
        yield ids[:max_tokens]


def quantize(model_dir: Path, texts: list[str], output: Path, max_tokens: int) -> None:
    """Write the NVFP4 directory `output`; appears there only when it is complete."""
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    batches = list(calibration_ids(model_dir, texts, max_tokens))

    def calibrate(calibrated: torch.nn.Module) -> None:
        # One text at a time: padding would be calibrated too.
        with torch.no_grad():
            for ids in batches:
                calibrated(torch.tensor([ids], device=model.device))

    model = mtq.quantize(model, quantization_recipe(), calibrate)
    aside = output.with_name(output.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=str(aside))
    _restore_source_files(model_dir, aside)
    shutil.rmtree(output, ignore_errors=True)
    aside.rename(output)


def _restore_source_files(model_dir: Path, exported: Path) -> None:
    """Keep the source's config.json and add `quantization_config` to it; copy the tokenizer.

    transformers 5 exports rope_theta and rope_scaling as rope_parameters, which older readers
    take for theta 10000 and no scaling, without a word.
    """
    written = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = written["quantization_config"]
    (exported / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in COPIED:
        if (model_dir / name).exists():
            shutil.copyfile(model_dir / name, exported / name)


def main() -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="BF16 Hugging Face directory")
    parser.add_argument(
        "--calib-data",
        type=Path,
        required=True,
        metavar="FILE.jsonl",
        help='one {"text": ...} a line',
    )
    parser.add_argument("--output", type=Path, required=True, help="NVFP4 directory to write")
    parser.add_argument(
        "--calib-tokens",
        type=int,
        default=512,
        metavar="N",
        help="tokens taken of each text (default 512)",
    )
    arguments = parser.parse_args()
    try:
        texts = read_calibration(arguments.calib_data)
        if not (arguments.model / "config.json").is_file():
            raise ValueError(f"{arguments.model} has no config.json")
        quantize(arguments.model, texts, arguments.output, arguments.calib_tokens)
    except (OSError, ValueError) as error:
        print(f"quantize: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"quantize: {error.name} is missing; install the `quantize` extra", file=sys.stderr)
        return 1
    print(f"quantize: NVFP4 checkpoint in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
