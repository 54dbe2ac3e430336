"""The models of benchmarks/serve.py: random weights, and their forms for engines that need one.

    python serve_models.py SHAPE fp32|bf16 FOLDER
    python serve_models.py convert ctranslate2|openvino MODEL fp32|bf16|int8 FOLDER

The first writes what Hugging Face's OPT is saved as, with the bundled tokenizer's files beside it;
the second runs in the engine's own environment.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

EOS = 2
SHAPES = {
    # layers, hidden size, heads, ffn, vocabulary, positions
    "tiny": (2, 64, 4, 256, 1536, 2048),
    "125m": (12, 768, 12, 3072, 50272, 2048),
    "1.3b": (24, 2048, 32, 8192, 50272, 2048),
}


def parameters_read(shape: str) -> int:
    """Weights that a token's step multiplies with: all but the embedding of positions."""
    layers, hidden, _, ffn, vocabulary, _ = SHAPES[shape]
    return layers * (4 * hidden * hidden + 2 * hidden * ffn) + vocabulary * hidden


def write(shape: str, dtype: str, folder: Path) -> None:
    """Random weights of which no text ends by itself: the logit of `</s>` is always 0, and so
    never the largest."""
    import torch  # noqa: PLC0415 - the benchmark itself stays small: its children inherit its peak
    import transformers  # noqa: PLC0415

    import unshard.demo_model  # noqa: PLC0415

    layers, hidden, heads, ffn, vocabulary, positions = SHAPES[shape]
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        ffn_dim=ffn,
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        word_embed_proj_dim=hidden,
    )
    model: Any = transformers.OPTForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[EOS] = 0
    model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]).save_pretrained(folder)
    (tokenizer,) = unshard.demo_model.__path__
    for name in ("gpt2-vocab.json", "gpt2-merges.txt"):
        shutil.copy(Path(tokenizer, name), folder / name)


def convert_to_ctranslate2(model: Path, dtype: str, folder: Path) -> None:
    """As its converter does, which also wants a tokenizer: here a token's name is its number."""
    from ctranslate2.converters.transformers import (  # noqa: PLC0415
        _MODEL_LOADERS,
        TransformersConverter,
    )

    loader = type(_MODEL_LOADERS["OPTConfig"])

    def set_config(_self: object, config: Any, _model: object, _tokenizer: object) -> None:
        config.bos_token = config.eos_token = str(EOS)
        config.unk_token = "3"

    loader.get_vocabulary = lambda _self, opt, _tokenizer: [
        str(number) for number in range(opt.config.vocab_size)
    ]
    loader.set_vocabulary = lambda _self, spec, tokens: spec.register_vocabulary(tokens)
    loader.set_config = set_config
    TransformersConverter.load_tokenizer = lambda *_args, **_options: None
    quantization = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8_float32"}[dtype]
    TransformersConverter(str(model)).convert(str(folder), quantization=quantization)


def convert_to_openvino(model: Path, dtype: str, folder: Path) -> None:
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig  # noqa: PLC0415

    bits = {"quantization_config": OVWeightQuantizationConfig(bits=8)} if dtype == "int8" else {}
    OVModelForCausalLM.from_pretrained(
        model, export=True, compile=False, load_in_8bit=False if not bits else None, **bits
    ).save_pretrained(folder)


def main() -> None:
    if sys.argv[1] == "convert":
        engine, model, dtype, folder = sys.argv[2:]
        convert = {"ctranslate2": convert_to_ctranslate2, "openvino": convert_to_openvino}[engine]
        convert(Path(model), dtype, Path(folder))
    else:
        shape, dtype, folder = sys.argv[1:]
        write(shape, dtype, Path(folder))
    print(json.dumps(sum(file.stat().st_size for file in Path(folder).rglob("*"))))


if __name__ == "__main__":
    main()
