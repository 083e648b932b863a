"""What a model configuration says of its experts, under the key names of many model families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.plant.hf_keys import need, not_modelled, optional, wrong

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNT = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_moe_experts",
    "n_experts",
)
PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_k",
    "moe_top_k",
    "top_k_experts",
    "n_experts_per_tok",
)
WIDTH = (
    "moe_intermediate_size",
    "expert_intermediate_size",
    "moe_ffn_hidden_size",
    "expert_ffn_hidden_size",
    "ffn_hidden_size_expert",
)
SHARED_COUNT = (
    "n_shared_experts",
    "num_shared_experts",
    "num_shared_expert",
    "moe_num_shared_experts",
)
SHARED_WIDTH = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
)
DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers", "n_dense_layers")
STEP = (
    "decoder_sparse_step",
    "interleave_moe_layer_step",
    "moe_layer_interval",
    "moe_every_n_layers",
)
LISTS = ("mlp_only_layers", "moe_layers", "moe_layer_freq", "mlp_layer_types")
RANGE = ("moe_layer_start_index", "moe_layer_end_index")

KNOWN = {*COUNT, *PER_TOKEN, *WIDTH, *SHARED_COUNT, *SHARED_WIDTH, *STEP, *LISTS, *RANGE}
"""Keys that this file reads."""

_LLAMA4 = {"llama4", "llama4_text"}


def expert_fields(text: Mapping[str, Any], kind: str, layers: int) -> dict[str, Any] | None:
    """Mixture of experts; None for a dense model."""
    count = optional(text, *COUNT, least=0)
    if not count or count == 1:
        return None
    width = optional(text, *WIDTH) or need(text, "intermediate_size")
    dense = layers - _sparse_layers(text, layers)
    if dense == layers:
        return None
    per_token = need(text, *PER_TOKEN)
    if per_token > count:
        raise wrong(PER_TOKEN[0], per_token, f"at most the {count} experts")
    return {
        "count": count,
        "per_token": per_token,
        "intermediate_size": width,
        "shared_intermediate_size": _shared_width(text, kind, width),
        "dense_layers": dense,
    }


def _shared_width(text: Mapping[str, Any], kind: str, width: int) -> int:
    own = optional(text, *SHARED_WIDTH, least=0)
    count = optional(text, *SHARED_COUNT, least=0)
    if own is not None:
        return own * (1 if count is None else count)
    if count is None and kind in _LLAMA4:
        return width
    return (count or 0) * width


def _sparse_layers(text: Mapping[str, Any], layers: int) -> int:
    """How many layers have experts."""
    listed = text.get("moe_layers")
    if listed is not None:
        if not _whole_numbers(listed):
            raise wrong("moe_layers", listed, "a list of layers")
        return len({layer for layer in listed if layer < layers})
    types = text.get("mlp_layer_types")
    if types is not None:
        return _listed(types, layers)
    freq = text.get("moe_layer_freq")
    if isinstance(freq, list):
        if not _whole_numbers(freq) or len(freq) != layers:
            raise wrong("moe_layer_freq", freq, f"a whole number, or a list of {layers}")
        return sum(bool(sparse) for sparse in freq)
    first = optional(text, *DENSE_FIRST, "moe_layer_start_index", least=0) or 0
    last = text.get("moe_layer_end_index")
    end = layers if last in (None, -1) else 1 + need(text, "moe_layer_end_index")
    step = optional(text, *STEP, "moe_layer_freq") or 1
    # DeepSeek counts from layer 0, the families with a step from the end of a group.
    offset = 0 if "moe_layer_freq" in text else step - 1
    sparse = {layer for layer in range(first, min(end, layers)) if layer % step == offset}
    only = text.get("mlp_only_layers")
    if only is not None:
        if not _whole_numbers(only):
            raise wrong("mlp_only_layers", only, "a list of layers")
        sparse -= set(only)
    return len(sparse)


def _listed(types: object, layers: int) -> int:
    if not isinstance(types, list) or len(types) != layers:
        raise wrong("mlp_layer_types", types, f"a list of {layers} names, one a layer")
    unknown = {str(name) for name in types} - {"dense", "sparse"}
    if unknown:
        raise not_modelled(
            "mlp_layer_types", sorted(unknown)[0], "feed-forward parts of that kind are"
        )
    return types.count("sparse")


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )


_HARMLESS = (
    "loss",
    "coef",
    "router_",
    "routing",
    "group",
    "norm",
    "score",
    "scoring",
    "bias",
    "jitter",
    "dropout",
    "capacity",
    "scaling",
    "gate",
    "eps",
    "dtype",
    "topk_method",
    "aux",
    "backend",
    "act",
    "implementation",
    "output",
)


def refuse_unknown_expert_keys(text: Mapping[str, Any]) -> None:
    """Refuse numbers and lists that speak of experts under a name that is not known.

    Raises:
        ProfileError: If there is one; the text names it.
    """
    for key, value in text.items():
        named = "expert" in key or "moe" in key.split("_")
        if not named or key in KNOWN or isinstance(value, (bool, str, float)) or not value:
            continue
        if not any(part in key for part in _HARMLESS):
            raise not_modelled(key, value, "what that key says of experts is")
