"""Which parts of a model a configuration packs, in which format, and how wide its KV cache is.

What is left out of the packing is listed by name, by pattern or by regular expression. Attention,
dense feed-forward parts and experts are told apart; heads, embeddings, routers and norms are never
packed here.
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Any

from voltana.plant.hf_keys import not_modelled, table, wrong
from voltana.plant.weight_formats import EXPERTS_ONLY, format_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Match = Callable[[str], object]

_TABLES = ("quantization_config", "compression_config")
"""The second is what compressed-tensors wrote at first."""

_LISTS = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules")
_MATRICES = {
    "attention": (
        ("self_attn.q_proj", "self_attn.qkv_proj", "self_attn.q_b_proj"),
        ("self_attn.o_proj",),
    ),
    "dense": (("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"), ("mlp.down_proj",)),
    "experts": (
        (
            "mlp.experts.0.gate_proj",
            "block_sparse_moe.experts.0.w1",
            "feed_forward.experts.gate_up_proj",
        ),
        (
            "mlp.experts.0.down_proj",
            "block_sparse_moe.experts.0.w2",
            "feed_forward.experts.down_proj",
        ),
    ),
}
"""Matrices of a layer, each by the names that families give it."""

_PREFIXES = ("model.layers", "language_model.model.layers", "model.language_model.layers")
_LOOKED_AT = 24
"""Layers that stand for all where there are more."""

_FEW, _MOST = 0.15, 0.85
"""Shares of the layers below and above which none or all are meant."""


def quantisation_of(config: Mapping[str, Any], text: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The nested or the outer ``quantization_config``; None where there is none."""
    for source in (text, config):
        for key in _TABLES:
            if source.get(key) is not None:
                return table(source, key) or None
    return None


def weight_dtypes(
    quantisation: Mapping[str, Any], layers: int, *, experts: bool
) -> tuple[str, str | None]:
    """Formats of the layers' weights, and of the experts' where they differ.

    Raises:
        ProfileError: If a profile cannot say which part is packed; the text names the key.
    """
    found = format_of(quantisation)
    if experts and found in EXPERTS_ONLY:
        return "bf16", found
    key, matches = _left_out(quantisation)
    parts = {"attention", "experts"} if experts else {"attention", "dense"}
    bare = {part for part in parts if _is_bare(key, matches, part, layers)}
    if bare == parts:
        return "bf16", None
    if not bare:
        return found, None
    if bare == {"attention"} and experts:
        return "bf16", found
    raise not_modelled(key, sorted(bare), "models with only the other matrices packed are")


def kv_bytes(quantisation: Mapping[str, Any] | None) -> int:
    """Bytes of one element of the KV cache that a checkpoint asks for.

    Raises:
        ProfileError: If it asks for a type that is not modelled.
    """
    if quantisation is None:
        return 2
    scheme = quantisation.get("kv_cache_scheme")
    if scheme is not None:
        bits = table(quantisation, "kv_cache_scheme").get("num_bits")
        if bits != 8:
            raise not_modelled("kv_cache_scheme", scheme, "caches of other than 8 bits are")
        return 1
    algorithm = quantisation.get("kv_cache_quant_algo")
    if algorithm is None:
        return 2
    if str(algorithm).upper() not in {"FP8", "INT8"}:
        raise not_modelled("kv_cache_quant_algo", algorithm, "caches of that type are")
    return 1


def _left_out(quantisation: Mapping[str, Any]) -> tuple[str, list[Match]]:
    """The key that lists what is not packed, and what matches it."""
    dynamic = quantisation.get("dynamic")
    if dynamic:
        names = list(table(quantisation, "dynamic"))
        if not all(name.startswith("-:") for name in names):
            raise not_modelled("dynamic", names, "different bits for different matrices are")
        return "dynamic", [_match("dynamic", f"re:{name[2:]}") for name in names]
    key = next((key for key in _LISTS if quantisation.get(key)), _LISTS[0])
    names = quantisation.get(key) or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise wrong(key, names, "a list of names")
    return key, [_match(key, name) for name in names if name]


def _match(key: str, name: str) -> Match:
    if name.startswith("re:"):
        try:
            return re.compile(name[3:]).match
        except re.error:
            raise wrong(key, name, "a regular expression after 're:'") from None
    if "*" in name:
        either = "|".join(
            fnmatch.translate(f"{before}{name}{after}")
            for before in ("", "*.")
            for after in ("", ".*")
        )
        return re.compile(either).match
    return lambda module: f".{name}." in f".{module}."


def _is_bare(key: str, matches: list[Match], part: str, layers: int) -> bool:
    if not matches:
        return False
    asked = [any(match(name) for name in names for match in matches) for names in _of(part, layers)]
    share = sum(asked) / len(asked)
    if _FEW < share < _MOST:
        raise not_modelled(
            key, f"{share:.0%} of {part}", "layers of which only some are packed are"
        )
    return share >= _MOST


def _of(part: str, layers: int) -> Iterator[list[str]]:
    """Names of one matrix of one layer, of every family and under every prefix."""
    count = min(layers, _LOOKED_AT)
    for index in range(count):
        layer = index * layers // count
        for names in _MATRICES[part]:
            yield [f"{prefix}.{layer}.{name}" for prefix in _PREFIXES for name in names]
