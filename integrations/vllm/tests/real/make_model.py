"""Makes a tiny model whose answers depend on every token of the prompt: ``make_model.py FOLDER``.

Dummy weights are so small that all prompts are answered alike.
"""

from __future__ import annotations

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=2048,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
    initializer_range=0.2,
)

if __name__ == "__main__":
    torch.manual_seed(20261127)
    model = LlamaForCausalLM(CONFIG).to(torch.bfloat16)
    model.save_pretrained(sys.argv[1])
