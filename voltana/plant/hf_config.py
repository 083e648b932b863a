"""Reads the architecture numbers out of a Hugging Face ``config.json``.

What a key says is read, or the configuration is refused with the key's name: no number of an
architecture that is not modelled comes out silently wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.errors import ProfileError
from voltana.plant.hf_attention import kv_heads, latent_fields, window_fields
from voltana.plant.hf_defaults import with_defaults
from voltana.plant.hf_experts import expert_fields
from voltana.plant.hf_feed_forward import dense_width, is_gated
from voltana.plant.hf_keys import flag, need, not_modelled, optional, table
from voltana.plant.hf_quantisation import kv_bytes, quantisation_of, weight_dtypes
from voltana.plant.hf_refusals import refuse_what_is_not_modelled

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIED_BY_DEFAULT = {"bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3", "biogpt"}
_TIED_BY_DEFAULT |= {"gemma3_text", "gpt2", "gpt-sw3", "gpt_bigcode", "mpt", "opt", "starcoder2"}
_TIED_BY_DEFAULT |= {"RefinedWeb", "RefinedWebModel", "minicpm", "minicpm3", "smollm3", "xglm"}
_TIED_BY_DEFAULT |= {"ernie4_5", "ernie4_5_moe", "gpt_neo", "gpt_neox_japanese", "openai-gpt"}
_TIED_BY_DEFAULT |= {"vaultgemma", "youtu", "phi4mm", "granite_swa"}

_TEXT_CONFIGS = ("thinker_config", "text_config", "llm_config", "language_config")


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
    text = with_defaults(text, kind, nested=text is not config and "model_type" in text)
    refuse_what_is_not_modelled(config, kind)
    layers = need(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    refuse_what_is_not_modelled(text, kind, layers=layers)
    heads = need(text, "num_attention_heads", "n_head", "n_heads")
    hidden = need(text, "hidden_size", "n_embd", "n_embed", "d_model")
    experts = expert_fields(text, kind, layers)
    weight_dtype, expert_dtype = _weight_dtypes(config, text, layers, experts=experts is not None)
    if experts is not None:
        experts["weight_dtype"] = expert_dtype
    latent = latent_fields(text)
    return {
        "name": name or _name(config) or kind,
        "layers": layers,
        "hidden_size": hidden,
        "heads": heads,
        "kv_heads": kv_heads(text, kind, heads),
        "head_dim": _head_dim(text, hidden, heads, latent),
        "latent": latent,
        "window": window_fields(text, kind, layers),
        "intermediate_size": dense_width(
            text, kind, hidden, needed=experts is None or experts["dense_layers"] > 0
        ),
        "vocab_size": _rows(text),
        "tied_embeddings": _tied(config, text, kind),
        "gated": is_gated(text, kind),
        "experts": experts,
        "weight_dtype": weight_dtype,
        "kv_dtype_bytes": kv_bytes(quantisation_of(config, text)),
    }


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The innermost configuration of the language model, however deeply nested."""
    key = next((key for key in _TEXT_CONFIGS if key in config), None)
    return config if key is None else _text_config(table(config, key))


def _name(config: Mapping[str, Any]) -> str:
    name = config.get("_name_or_path")
    return name if isinstance(name, str) else ""


def _head_dim(
    text: Mapping[str, Any], hidden: int, heads: int, latent: Mapping[str, int] | None
) -> int:
    """Width of a head; latent attention has its own, and needs none."""
    if latent is not None:
        return optional(text, "head_dim", "qk_head_dim") or latent["value_dim"]
    given = optional(text, "head_dim", "kv_channels", "attention_head_dim")
    if given is None and hidden % heads:
        raise ProfileError(
            f"config.json: hidden_size {hidden} is no multiple of num_attention_heads {heads}. "
            "Give head_dim, or correct one of them."
        )
    found = given or hidden // heads
    values = optional(text, "v_head_dim")
    if values not in {None, found}:
        raise not_modelled("v_head_dim", values, "values narrower or wider than keys are")
    return found


def _rows(text: Mapping[str, Any]) -> int:
    """Rows of the embedding; one family gives its padded rows a key of their own."""
    padded = optional(text, "embedding_size") if "d_model" in text else None
    return padded or need(text, "vocab_size", "padded_vocab_size")


def _tied(config: Mapping[str, Any], text: Mapping[str, Any], kind: str) -> bool:
    for source, key in (
        (text, "tie_word_embeddings"),
        (config, "tie_word_embeddings"),
        (text, "weight_tying"),
    ):
        tied = flag(source, key)
        if tied is not None:
            return tied
    first_chatglm = kind == "chatglm" and "inner_hidden_size" in text
    return kind in _TIED_BY_DEFAULT or first_chatglm


def _weight_dtypes(
    config: Mapping[str, Any], text: Mapping[str, Any], layers: int, *, experts: bool
) -> tuple[str, str | None]:
    """Formats of the layers' weights and of the experts' where they differ."""
    quantisation = quantisation_of(config, text)
    if quantisation is not None:
        return weight_dtypes(quantisation, layers, experts=experts)
    single = "float32" in {
        source.get(key)
        for source in (text, config)
        for key in ("torch_dtype", "dtype")
        if isinstance(source.get(key), str)
    }
    return "fp32" if single else "bf16", None
