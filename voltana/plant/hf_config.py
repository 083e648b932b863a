"""Reads the architecture numbers out of a Hugging Face ``config.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.errors import ProfileError

if TYPE_CHECKING:
    from collections.abc import Mapping


def profile_fields(config: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Fields of a `ModelProfile` from a parsed configuration.

    Raises:
        ProfileError: If a needed key is missing.
    """
    text: Mapping[str, Any] = config.get("text_config", config)
    heads = int(_need(text, "num_attention_heads", "n_head"))
    hidden = int(_need(text, "hidden_size", "n_embd"))
    layers = int(_need(text, "num_hidden_layers", "n_layer"))
    experts = _experts(text, layers)
    fields: dict[str, Any] = {
        "name": name or config.get("_name_or_path") or config.get("model_type") or "model",
        "layers": layers,
        "hidden_size": hidden,
        "heads": heads,
        "kv_heads": int(text.get("num_key_value_heads") or heads),
        "head_dim": int(text.get("head_dim") or hidden // heads),
        "intermediate_size": int(
            text.get("intermediate_size") or text.get("n_inner") or (0 if experts else 4 * hidden)
        ),
        "vocab_size": int(_need(text, "vocab_size")),
        "tied_embeddings": bool(config.get("tie_word_embeddings", text is not config)),
        "experts": experts,
    }
    return fields


def _experts(text: Mapping[str, Any], layers: int) -> dict[str, int] | None:
    count = _first(text, "num_experts", "num_local_experts", "n_routed_experts")
    if not count:
        return None
    width = int(_need(text, "moe_intermediate_size", "intermediate_size"))
    shared = int(text.get("shared_expert_intermediate_size") or 0)
    shared += int(text.get("n_shared_experts") or 0) * width
    dense = int(text.get("first_k_dense_replace") or len(text.get("mlp_only_layers") or ()))
    return {
        "count": int(count),
        "per_token": int(_need(text, "num_experts_per_tok", "num_experts_per_token")),
        "intermediate_size": width,
        "shared_intermediate_size": shared,
        "dense_layers": min(dense, layers),
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
