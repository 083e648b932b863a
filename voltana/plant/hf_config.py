"""Reads the architecture numbers out of a Hugging Face ``config.json``.

What a key says is read, or the configuration is refused with the key's name: no number of an
architecture that is not modelled comes out silently wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.errors import ProfileError
from voltana.plant.hf_attention import kv_heads, latent_fields, window_fields
from voltana.plant.hf_experts import expert_fields
from voltana.plant.hf_keys import flag, need, optional, read, table
from voltana.plant.hf_refusals import refuse_what_is_not_modelled
from voltana.plant.weight_formats import EXPERTS_ONLY, format_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNGATED = {"bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "mpt", "opt", "phi"}
_UNGATED |= {"starcoder2", "nemotron", "codegen", "gpt_neo", "persimmon", "stablelm_epoch"}
_TIED_BY_DEFAULT = {"bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3"}
_TIED_BY_DEFAULT |= {"gemma3_text", "gpt2", "gpt_bigcode", "mpt", "opt", "starcoder2"}

_TEXT_CONFIGS = ("text_config", "llm_config", "language_config")

_GEMMA3 = {"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256}
_GEMMA3 |= {"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4}
_GEMMA3 |= {"sliding_window": 4096, "sliding_window_pattern": 6}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
    "gemma2": {"vocab_size": 256000, "head_dim": 256, "sliding_window": 4096},
    "gemma": {"vocab_size": 256000, "head_dim": 256},
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "mistral": {"vocab_size": 32000, "sliding_window": 4096},
    "falcon": {"multi_query": True},
    "gpt_bigcode": {"multi_query": True},
}
"""What published configurations leave to the defaults of their class (transformers 4.57)."""


def profile_fields(config: object, name: str | None) -> dict[str, Any]:
    """Fields of a `ModelProfile` from a parsed configuration.

    Raises:
        ProfileError: If a needed key is missing, of a wrong type or range, or the architecture is
            not covered; the text names the key.
    """
    if not isinstance(config, dict):
        raise ProfileError(
            f"config.json is {type(config).__name__}, not an object. Give the configuration of a "
            "transformer language model."
        )
    text = _text_config(config)
    kind = str(text.get("model_type") or config.get("model_type") or "model")
    text = {**_DEFAULTS.get(kind, {}), **text}
    refuse_what_is_not_modelled(config, kind)
    layers = need(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    refuse_what_is_not_modelled(text, kind, layers=layers)
    heads = need(text, "num_attention_heads", "n_head", "n_heads")
    hidden = need(text, "hidden_size", "n_embd", "n_embed", "d_model")
    head_dim = optional(text, "head_dim", "kv_channels") or _head_dim(hidden, heads)
    tied = flag(text, "tie_word_embeddings")
    tied = flag(config, "tie_word_embeddings") if tied is None else tied
    weight_dtype, expert_dtype = _weight_dtypes(config, text)
    experts = expert_fields(text, kind, layers)
    if experts is not None:
        experts["weight_dtype"] = expert_dtype
    return {
        "name": name or _name(config) or kind,
        "layers": layers,
        "hidden_size": hidden,
        "heads": heads,
        "kv_heads": kv_heads(text, kind, heads),
        "head_dim": head_dim,
        "latent": latent_fields(text),
        "window": window_fields(text, kind, layers),
        "intermediate_size": _width(text, hidden),
        "vocab_size": need(text, "vocab_size", "padded_vocab_size"),
        "tied_embeddings": kind in _TIED_BY_DEFAULT if tied is None else tied,
        "gated": kind not in _UNGATED,
        "experts": experts,
        "weight_dtype": weight_dtype,
    }


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _TEXT_CONFIGS:
        if key in config:
            return table(config, key)
    return config


def _name(config: Mapping[str, Any]) -> str:
    name = config.get("_name_or_path")
    return name if isinstance(name, str) else ""


def _head_dim(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise ProfileError(
            f"config.json: hidden_size {hidden} is no multiple of num_attention_heads {heads}. "
            "Give head_dim, or correct one of them."
        )
    return hidden // heads


def _width(text: Mapping[str, Any], hidden: int) -> int:
    """Width of the dense feed-forward part; Llama 4 names that of its experts the usual way."""
    dense = optional(text, "intermediate_size_mlp")
    return (
        dense
        or optional(text, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
        or 4 * hidden
    )


def _weight_dtypes(config: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[str, str | None]:
    """Formats of the layers' weights and of the experts' where they differ."""
    for source in (text, config):
        quantisation = read(source, "quantization_config")
        if quantisation is not None:
            if quantisation == {}:
                break
            found = format_of(table(source, "quantization_config"))
            return ("bf16", found) if found in EXPERTS_ONLY else (found, None)
    single = "float32" in {
        source.get(key)
        for source in (text, config)
        for key in ("torch_dtype", "dtype")
        if isinstance(source.get(key), str)
    }
    return "fp32" if single else "bf16", None
