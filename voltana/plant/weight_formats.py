"""Formats of weights: bytes in memory, and the arithmetic that serves them.

A format whose arithmetic a board lacks would be served by unpacking to a wider type, which engines
do with kernels of their own; only the formats below say by which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voltana.errors import ProfileError
from voltana.plant.hf_keys import shown

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the matrices of a model's layers are stored and multiplied.

    Attributes:
        bytes: Bytes of one weight in memory, scales and zero points included.
        arithmetic: Type of the products, a key of `HardwareProfile.peak_flops`.
        activation_bytes: Bytes of one element that a product reads.
        quantises: Whether an engine converts activations before each product, in a kernel of its
            own.
    """

    bytes: float
    arithmetic: str
    activation_bytes: float = 2.0
    quantises: bool = False


def _packed(bits: int, group: int) -> WeightFormat:
    """Whole numbers unpacked to bf16, with a 16-bit scale and a packed zero point a group."""
    return WeightFormat(bytes=bits / 8 + (2 + bits / 8) / group, arithmetic="bf16")


FORMATS: dict[str, WeightFormat] = {
    "fp32": WeightFormat(bytes=4.0, arithmetic="fp32", activation_bytes=4.0),
    "bf16": WeightFormat(bytes=2.0, arithmetic="bf16"),
    "fp8": WeightFormat(bytes=1.0, arithmetic="fp8", activation_bytes=1.0, quantises=True),
    "fp8-weights": WeightFormat(bytes=1.0, arithmetic="bf16"),
    "int8": WeightFormat(bytes=1.0, arithmetic="bf16"),
    # 4-bit floating point with a byte of scale for every 32 (mxfp4) or 16 (nvfp4) weights; no
    # Ampere or Hopper board multiplies it, so kernels unpack it to bf16.
    "mxfp4": WeightFormat(bytes=0.5 + 1 / 32, arithmetic="bf16"),
    "nvfp4": WeightFormat(bytes=0.5 + 1 / 16, arithmetic="bf16"),
    "int4": _packed(4, 128),
    "int4-g64": _packed(4, 64),
    "int4-g32": _packed(4, 32),
    "int8-g128": _packed(8, 128),
}
"""By name. ``int8`` (W8A8) is taken to be unpacked to bf16: no int8 product is measured here."""


def weight_format(name: str) -> WeightFormat:
    """A format by name.

    Raises:
        ProfileError: If there is none.
    """
    if name not in FORMATS:
        raise ProfileError(
            f"weight_dtype = {name!r} is no known format of weights: must be one of "
            f"{', '.join(FORMATS)}. Choose the one that the engine loads."
        )
    return FORMATS[name]


_GROUP = 128
"""Weights that share a scale unless a configuration says otherwise; larger groups cost little."""

_SMALL_GROUPS = {64: "-g64", 32: "-g32"}

EXPERTS_ONLY = frozenset({"mxfp4"})
"""Formats that published checkpoints use for experts alone; the rest stays in bf16."""

_COMPRESSED = {
    "float-quantized": "fp8",
    "int-quantized": "int8",
    "naive-quantized": "int8",
    "nvfp4-pack-quantized": "nvfp4",
    "mxfp4-pack-quantized": "mxfp4",
}


_METHODS = "fp8, mxfp4, awq or gptq with 4 or 8 bits, compressed-tensors or modelopt"


def format_of(quantisation: Mapping[str, Any]) -> str:
    """The format that a ``quantization_config`` describes.

    Raises:
        ProfileError: If it is of a kind that is not modelled; the text names the key.
    """
    method = str(quantisation.get("quant_method") or "").lower()
    if method in {"fp8", "fbgemm_fp8", "mxfp4"}:
        return "mxfp4" if method == "mxfp4" else "fp8"
    if method in {"awq", "gptq"}:
        return _grouped(quantisation, quantisation.get("bits", quantisation.get("w_bit")), method)
    if method in {"compressed-tensors", "compressed_tensors"}:
        return _compressed(quantisation)
    if method == "modelopt":
        algorithm = str(quantisation.get("quant_algo") or "").upper()
        if algorithm in {"FP8", "NVFP4"}:
            return algorithm.lower()
        raise _not_modelled("quant_algo", quantisation.get("quant_algo"), "FP8 or NVFP4")
    raise _not_modelled(
        "quant_method",
        quantisation.get("quant_method"),
        _METHODS,
    )


def _compressed(quantisation: Mapping[str, Any]) -> str:
    kind = str(quantisation.get("format"))
    found = {_of_group(kind, weights) for weights in _weights(quantisation)}
    if len(found) == 1:
        return found.pop()
    raise _not_modelled("config_groups", sorted(found), "one format for all groups")


def _of_group(kind: str, weights: Mapping[str, Any]) -> str:
    bits = weights.get("num_bits")
    if weights.get("type") == "float" and bits == 8:
        return "fp8"
    if kind in _COMPRESSED:
        expected = 4 if "pack" in kind else 8
        if bits not in {None, expected}:
            raise _not_modelled("num_bits", bits, f"{expected} with {kind}")
        return _COMPRESSED[kind]
    if kind in {"pack-quantized", "marlin-24"} and weights:
        return _grouped(weights, bits, kind)
    raise _not_modelled(
        "format", kind, f"{', '.join(_COMPRESSED)}, or pack-quantized with config_groups"
    )


def _weights(quantisation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each group says of its weights; nothing where there are no groups."""
    groups = quantisation.get("config_groups")
    found = [
        group["weights"]
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict) and isinstance(group.get("weights"), dict)
    ]
    return found or [{}]


def _grouped(table: Mapping[str, Any], bits: object, method: str) -> str:
    suffix = _group_suffix(table.get("group_size", table.get("q_group_size")))
    if bits == 4:
        return f"int4{suffix}"
    if bits == 8:
        return "int8-g128"
    raise _not_modelled("quant_method", method, f"(with bits {bits!r:.30}) {_METHODS}")


def _group_suffix(group: object) -> str:
    """What a format of whole numbers is called after for its groups; -1 is one group a channel."""
    if group is None or group == -1:
        return ""
    if isinstance(group, int) and not isinstance(group, bool):
        if group in _SMALL_GROUPS:
            return _SMALL_GROUPS[group]
        if group >= _GROUP:
            return ""
    raise _not_modelled("group_size", group, f"32, 64, {_GROUP} or more, or -1")


def _not_modelled(key: str, value: object, modelled: str) -> ProfileError:
    return ProfileError(
        f"config.json: {key} {shown(value)} is not modelled, only {modelled} is. "
        "Give the configuration without quantization_config, or write a model profile."
    )
