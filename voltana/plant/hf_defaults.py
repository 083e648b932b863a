"""What published configurations leave to the defaults of their class (transformers 4.57 to 5.19).

A nested configuration is written without what its class has by default, sizes included. A whole one
names its sizes, and is refused without them; what may be left out there are attention and windows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


def _sizes(*values: int | None) -> dict[str, Any]:
    return {key: value for key, value in zip(_SIZES, values, strict=True) if value is not None}


_QWEN2 = _sizes(151936, 4096, 22016, 32, 32, 32, None)
_QWEN2_VL = _sizes(152064, 8192, 29568, 80, 64, 8, None)
_QWEN3 = _QWEN2 | {"head_dim": 128}
_GEMMA3 = _sizes(262208, 2304, 9216, 26, 8, 4, 256)
_LATENT = {"qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}

_OF_CLASS: dict[str, dict[str, Any]] = {
    "llama": _sizes(32000, 4096, 11008, 32, 32, None, None),
    "llama4_text": _sizes(202048, 5120, 8192, 48, 40, 8, 128),
    "mistral": _sizes(32000, 4096, 14336, 32, 32, 8, None),
    "ministral3": _sizes(131072, 4096, 14336, 34, 32, 8, 128),
    "mixtral": _sizes(32000, 4096, 14336, 32, 32, 8, None),
    "qwen2": _QWEN2,
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "qwen3_moe": _sizes(151936, 2048, 6144, 24, 32, 4, None),
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "phi3": _sizes(32064, 3072, 8192, 32, 32, None, None),
    "gemma": _sizes(256000, 3072, 24576, 28, 16, 16, 256),
    "gemma2": _sizes(256000, 2304, 9216, 26, 8, 4, 256),
    "gemma3_text": _GEMMA3,
    "cohere2": _sizes(256000, 8192, 22528, 40, 64, None, None),
    "glm4": _sizes(151552, 4096, 13696, 40, 32, 2, 128),
    "glm4_moe": _sizes(151552, 4096, 10944, 46, 96, 8, None),
    "gpt_oss": _sizes(201088, 2880, 2880, 36, 64, 8, 64),
}

_ALWAYS: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 4096},
    "gemma3": {"sliding_window": 4096, "sliding_window_pattern": 6},
    "gemma3_text": {"sliding_window": 4096, "sliding_window_pattern": 6},
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "mistral": {"sliding_window": 4096},
    "olmo3": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "exaone4": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "cwm": {"sliding_window": 8192, "sliding_window_pattern": 4},
    "gpt_oss": {"sliding_window": 128},
    "vaultgemma": {"sliding_window": 4096},
    "falcon": {"multi_query": True},
    "gpt_bigcode": {"multi_query": True},
    "dots1": {"use_sliding_window": False},
    "smollm3": {"use_sliding_window": False},
}

_NO_WINDOW = ("qwen2", "qwen3", "mimo")
"""Families whose windows are off unless ``use_sliding_window`` turns them on."""

_UNNESTED = ("num_key_value_heads", "head_dim")
"""Sizes that a whole configuration of these classes may leave out."""


def with_defaults(text: Mapping[str, Any], kind: str, *, nested: bool) -> dict[str, Any]:
    """A configuration with the defaults of its class where it says nothing.

    Args:
        text: The configuration of the text model.
        kind: Its ``model_type``.
        nested: Whether it stood within another, and so without its class's sizes.
    """
    sizes = _OF_CLASS.get(kind, {})
    if not nested:
        sizes = {key: sizes[key] for key in _UNNESTED if key in sizes}
    always = _ALWAYS.get(kind, {})
    if kind.startswith(_NO_WINDOW):
        always = {"use_sliding_window": False, **always}
    return {**sizes, **always, **_one_for_all(text)}


_BY_LAYER = (
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "moe_intermediate_size",
    "moe_topk",
    "num_experts",
    "num_shared_expert",
)


def _one_for_all(text: Mapping[str, Any]) -> dict[str, Any]:
    """A size that is listed for every layer, and is the same in all, is one number."""
    alike = {}
    for key in _BY_LAYER:
        listed = text.get(key)
        layers = text.get("num_hidden_layers")
        if isinstance(listed, list) and listed and len(listed) == layers:
            first = listed[0]
            if isinstance(first, int) and all(item == first for item in listed):
                alike[key] = first
    return {**text, **alike}
