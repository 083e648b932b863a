"""Reads the architecture numbers out of a Hugging Face ``config.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.errors import ProfileError

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNGATED = {"bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "mpt", "opt", "phi"}
_UNGATED |= {"starcoder2"}
_TIED_BY_DEFAULT = {"bloom", "cohere", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text"}
_TIED_BY_DEFAULT |= {"gpt2", "gpt_bigcode", "mpt", "opt"}


def profile_fields(config: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Fields of a `ModelProfile` from a parsed configuration.

    Raises:
        ProfileError: If a needed key is missing, or the architecture is not covered.
    """
    text: Mapping[str, Any] = config.get("text_config", config)
    heads = int(_need(text, "num_attention_heads", "n_head"))
    hidden = int(_need(text, "hidden_size", "n_embd", "d_model"))
    layers = int(_need(text, "num_hidden_layers", "n_layer"))
    experts = _experts(text, layers)
    kind = str(text.get("model_type") or config.get("model_type") or "model")
    width = _first(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    tied = _first(config, "tie_word_embeddings")
    return {
        "name": name or config.get("_name_or_path") or kind,
        "layers": layers,
        "hidden_size": hidden,
        "heads": heads,
        "kv_heads": int(_first(text, "num_key_value_heads", "num_kv_heads") or heads),
        "head_dim": int(text.get("head_dim") or hidden // heads),
        "latent": _latent(text),
        "intermediate_size": int(width),
        "vocab_size": int(_need(text, "vocab_size")),
        "tied_embeddings": kind in _TIED_BY_DEFAULT if tied is None else bool(tied),
        "gated": kind not in _UNGATED,
        "experts": experts,
        "weight_dtype": _weight_dtype(config),
    }


def _latent(text: Mapping[str, Any]) -> dict[str, int] | None:
    if not text.get("kv_lora_rank"):
        return None
    return {
        "query_rank": int(text.get("q_lora_rank") or 0),
        "kv_rank": int(text["kv_lora_rank"]),
        "rotary_dim": int(_need(text, "qk_rope_head_dim")),
        "key_dim": int(_need(text, "qk_nope_head_dim")),
        "value_dim": int(_need(text, "v_head_dim")),
    }


def _weight_dtype(config: Mapping[str, Any]) -> str:
    quantisation = config.get("quantization_config")
    if not quantisation:
        single = _first(config, "torch_dtype", "dtype") == "float32"
        return "fp32" if single else "bf16"
    method = quantisation.get("quant_method")
    if method != "fp8":
        raise ProfileError(
            f"config.json: quant_method {method!r} is not modelled, only 'fp8' is. "
            "Give the configuration without quantization_config, or write a model profile."
        )
    return "fp8"


def _experts(text: Mapping[str, Any], layers: int) -> dict[str, int] | None:
    count = _first(text, "num_experts", "num_local_experts", "n_routed_experts")
    if not count:
        return None
    width = int(_need(text, "moe_intermediate_size", "intermediate_size"))
    shared = int(text.get("shared_expert_intermediate_size") or 0)
    shared += int(text.get("n_shared_experts") or 0) * width
    dense = int(text.get("first_k_dense_replace") or len(text.get("mlp_only_layers") or ()))
    step = int(text.get("decoder_sparse_step") or 1)
    return {
        "count": int(count),
        "per_token": int(_need(text, "num_experts_per_tok", "num_experts_per_token")),
        "intermediate_size": width,
        "shared_intermediate_size": shared,
        "dense_layers": max(dense, layers - layers // step),
    }


def _first(text: Mapping[str, Any], *keys: str) -> Any:
    return next((text[key] for key in keys if text.get(key) is not None), None)


def _need(text: Mapping[str, Any], *keys: str) -> Any:
    value = _first(text, *keys)
    if value is None:
        others = f" (or {', '.join(keys[1:])})" if keys[1:] else ""
        raise ProfileError(
            f"config.json lacks {keys[0]!r}{others}. Give the configuration of a transformer "
            "language model, with that key."
        )
    return value
