"""What a model configuration says of attention: KV heads, latent vectors and windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.plant.hf_keys import flag, need, not_modelled, optional, read, wrong

if TYPE_CHECKING:
    from collections.abc import Mapping

_FULL = {"full_attention", "global_attention", "global", "full", "attention"}
_LOCAL = {"sliding_attention", "local_attention", "local", "sliding", "chunked_attention"}

_KV_HEADS: tuple[str, ...] = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv")
_KV_HEADS += ("num_attention_groups", "num_query_groups")

_PATTERN: tuple[str, ...] = ("sliding_window_pattern", "_sliding_window_pattern", "layer_switch")
_PATTERN += ("global_attn_every_n_layers",)

_EVERY_OTHER = {"gemma2", "gpt_oss", "vaultgemma"}
_SOME = {"llama4", "llama4_text"}
_NO_ROPE_INTERVAL = 4
"""Llama 4's default: every fourth layer has no rotary embedding and looks at all tokens."""


def kv_heads(text: Mapping[str, Any], kind: str, heads: int) -> int:
    """Key-value heads; as many as query heads where nothing else is said."""
    if kind.startswith("falcon") and flag(text, "new_decoder_architecture"):
        return optional(text, *_KV_HEADS) or heads
    if flag(text, "multi_query"):
        return 1
    if flag(text, "multi_query_attention"):
        return need(text, "multi_query_group_num")
    found = optional(text, *_KV_HEADS) or heads
    if heads % found and "kv_lora_rank" not in text:
        key = next(key for key in _KV_HEADS if text.get(key) is not None)
        raise wrong(key, found, f"a divisor of the {heads} attention heads")
    return found


def latent_fields(text: Mapping[str, Any]) -> dict[str, int] | None:
    """Latent attention; None for the usual kind."""
    rank = optional(text, "kv_lora_rank")
    if rank is None:
        return None
    return {
        "query_rank": optional(text, "q_lora_rank", least=0) or 0,
        "kv_rank": rank,
        "rotary_dim": need(text, "qk_rope_head_dim"),
        "key_dim": need(text, "qk_nope_head_dim"),
        "value_dim": need(text, "v_head_dim"),
    }


def window_fields(text: Mapping[str, Any], kind: str, layers: int) -> dict[str, int] | None:
    """Layers that look at the last tokens only.

    A layer that attends within chunks counts as one with a window of the chunk's size, which is the
    most that it looks at.
    """
    types = text.get("layer_types")
    listed = None if types is None else _listed(types, layers)
    tokens = optional(text, "attention_chunk_size" if kind in _SOME else "sliding_window", least=0)
    if not tokens or flag(text, "use_sliding_window") is False:
        return None
    local = _local_layers(text, kind, layers) if listed is None else listed
    return {"layers": local, "tokens": tokens} if local else None


def _local_layers(text: Mapping[str, Any], kind: str, layers: int) -> int:
    pattern = read(text, *_PATTERN)
    if pattern is not None:
        return _of_pattern(pattern, layers)
    if kind in _SOME:
        rope = text.get("no_rope_layers")
        if isinstance(rope, list) and rope:
            return sum(bool(used) for used in rope)
        return layers - layers // (optional(text, "no_rope_layer_interval") or _NO_ROPE_INTERVAL)
    if kind in _EVERY_OTHER:
        return (layers + 1) // 2
    first = optional(text, "max_window_layers", least=0)
    if first is not None and flag(text, "use_sliding_window"):
        return max(0, layers - first)
    return layers


def _of_pattern(pattern: object, layers: int) -> int:
    """Letters, one a layer, repeated; or a number: one layer in so many looks at all tokens."""
    if not isinstance(pattern, str):
        step = need({"sliding_window_pattern": pattern}, "sliding_window_pattern")
        return layers - layers // step
    if not pattern or set(pattern) - {"L", "G"}:
        raise wrong("sliding_window_pattern", pattern, "letters L and G, or a whole number")
    return sum(pattern[index % len(pattern)] == "L" for index in range(layers))


def _listed(types: object, layers: int) -> int:
    if not isinstance(types, list) or len(types) != layers:
        raise wrong("layer_types", types, f"a list of {layers} names, one a layer")
    unknown = {str(name) for name in types} - _FULL - _LOCAL
    if unknown:
        raise not_modelled("layer_types", sorted(unknown)[0], "layers of that kind are")
    return sum(name in _LOCAL for name in types)
