"""Makes a tiny Llama with a tokenizer and random weights: ``python -m ...tiny_model FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

VOCABULARY = 512
POSITIONS = 2048
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
TEXT = "the clock of a tiny model follows the load while every token keeps its deadline "
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
WEIGHT_DEVIATION = 0.08
EMBEDDING_DEVIATION = 0.5
"""Wide enough that attention over the KV cache decides the next token, so that greedy output shows
a cache that was transferred wrongly."""


def make_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write a 2-layer Llama that SGLang serves with ``--dtype float32``.

    Args:
        folder: Where to; made if absent.
        seed: Of the weights.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    _write_weights(folder, seed)
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT * 20], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    start, end, padding = SPECIAL_TOKENS
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": end,
        "pad_token": padding,
        "model_max_length": POSITIONS,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def _write_weights(folder: Path, seed: int) -> None:
    import torch  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config).float()
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            outer = "lm_head" in name or "embed" in name
            deviation = EMBEDDING_DEVIATION if outer else WEIGHT_DEVIATION
            torch.nn.init.normal_(weight, std=deviation)
    model.save_pretrained(str(folder), safe_serialization=True)


if __name__ == "__main__":
    make_tiny_model(Path(sys.argv[1]))
