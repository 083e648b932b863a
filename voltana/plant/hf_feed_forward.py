"""What a model configuration says of the dense feed-forward part: its width, and whether gated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.plant.hf_keys import need, not_modelled, optional, read, wrong

if TYPE_CHECKING:
    from collections.abc import Mapping

_FOUR_TIMES = {"bloom", "falcon", "RefinedWeb", "RefinedWebModel", "gpt2", "gpt-sw3", "gptj"}
_FOUR_TIMES |= {"gpt_bigcode", "gpt_neo", "gpt_neox_japanese", "codegen", "openai-gpt", "phi-msft"}
_FOUR_TIMES |= {"mixformer-sequential"}
"""Families whose feed-forward part is four times as wide as the model unless they say otherwise."""

_UNGATED = {*_FOUR_TIMES, "gpt_neox", "mpt", "opt", "phi", "starcoder2", "nemotron", "persimmon"}
_UNGATED |= {"apertus", "arcee", "biogpt", "jais2", "nanochat", "xglm"}

_GATED: tuple[str, ...] = (
    "llama",
    "mistral",
    "ministral",
    "mixtral",
    "qwen",
    "gemma",
    "vaultgemma",
    "cohere",
)
_GATED += ("granite", "phi3", "phi4", "glm", "chatglm", "deepseek", "grok", "olmo", "internlm")
_GATED += ("stablelm", "exaone", "helium", "minicpm", "ernie4")
"""Families that are gated whatever their activation is called."""

_ACTIVATION: tuple[str, ...] = (
    "hidden_activation",
    "hidden_act",
    "activation_function",
    "activation_type",
)
_ACTIVATION += ("activation", "mlp_hidden_act")

_WIDTH = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "inner_hidden_size")

_BOTH_HALVES = {"qwen"}
"""Families whose ``intermediate_size`` counts gate and value together."""


def is_gated(text: Mapping[str, Any], kind: str) -> bool:
    """Whether there are three matrices rather than two.

    Raises:
        ProfileError: If neither the family nor the activation tells.
    """
    if kind in _UNGATED or (kind == "chatglm" and "inner_hidden_size" in text):
        return False
    key = next((key for key in _ACTIVATION if text.get(key) is not None), None)
    if key is None or kind.startswith(_GATED):
        return True
    activation = text[key]
    if not isinstance(activation, str):
        raise wrong(key, activation, "the name of an activation")
    name = activation.lower()
    if name in {"silu", "swish"} or "glu" in name:
        return True
    raise not_modelled(key, activation, f"feed-forward parts of model_type {kind!r} with it are")


def dense_width(text: Mapping[str, Any], kind: str, hidden: int, *, needed: bool) -> int:
    """Width of the dense feed-forward part; Llama 4 names that of its experts the usual way.

    Args:
        text: The configuration of the text model.
        kind: Its ``model_type``.
        hidden: Width of the model.
        needed: Whether any layer has a dense part.

    Raises:
        ProfileError: If it is needed and missing.
    """
    both = optional(text, "mlp_hidden_size")
    if both is not None:
        glu = "glu" in str(read(text, *_ACTIVATION) or "")
        return both // 2 if glu else both
    width = optional(text, "intermediate_size_mlp", *_WIDTH)
    if width is None:
        if kind in _FOUR_TIMES:
            return 4 * hidden
        return need(text, *_WIDTH) if needed else 0
    return width // 2 if kind in _BOTH_HALVES else width
