"""Makes a tiny model whose answers depend on every token of the prompt: ``make_model.py FOLDER``.

Dummy weights are so small that all prompts are answered alike. Its tokens are bytes, and words that
nobody says where its vocabulary is larger; it has a template, so that one can chat with it.
"""

from __future__ import annotations

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% for t in tools or [] %}{{ t.function.name }}\n{% endfor %}[assistant] "
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    words = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"<{index}>" for index in range(len(words), CONFIG.vocab_size)]
    made = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        chat_template=TEMPLATE,
    )  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(20261127)
    model = LlamaForCausalLM(CONFIG).to(torch.bfloat16)
    model.save_pretrained(sys.argv[1])
    tokenizer().save_pretrained(sys.argv[1])
