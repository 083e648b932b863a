"""Model profiles: a transformer's architecture numbers, and nothing measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana.errors import ProfileError
from voltana.plant.hardware import Section, names, parse, read_profile
from voltana.plant.hf_config import profile_fields

if TYPE_CHECKING:
    from collections.abc import Mapping


class Experts(Section):
    """Mixture of experts in the feed-forward layers.

    Attributes:
        count: Routed experts a layer.
        per_token: Routed experts that each token uses.
        intermediate_size: Width of one expert.
        shared_intermediate_size: Width of the experts that every token uses; 0 if none.
        dense_layers: First layers that have a dense feed-forward part instead.
    """

    count: int
    per_token: int
    intermediate_size: int
    shared_intermediate_size: int = 0
    dense_layers: int = 0


class LatentAttention(Section):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one compressed vector a token.

    Attributes:
        query_rank: Width of the compressed query; 0 where queries are not compressed.
        kv_rank: Width of the compressed key-value vector.
        rotary_dim: Width of the part with positions, which all heads share in the cache.
        key_dim: Width of the part of a head's key without positions.
        value_dim: Width of a head's value.
    """

    query_rank: int = 0
    kv_rank: int
    rotary_dim: int
    key_dim: int
    value_dim: int

    @property
    def query_dim(self) -> int:
        """Width of a head's query and key."""
        return self.key_dim + self.rotary_dim

    @property
    def cached(self) -> int:
        """Elements that a layer caches for one token."""
        return self.kv_rank + self.rotary_dim


class ModelProfile(Section):
    """A dense or MoE decoder-only transformer.

    Attributes:
        name: Its name.
        layers: Transformer layers.
        hidden_size: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key-value heads.
        head_dim: Width of a head.
        intermediate_size: Width of the dense feed-forward part.
        vocab_size: Rows of the embedding.
        tied_embeddings: Whether input and output embedding are one matrix.
        gated: Whether the feed-forward part is gated (three matrices rather than two).
        experts: Mixture of experts; None for a dense model.
        latent: Latent attention, instead of `kv_heads` of `head_dim`; None for the usual kind.
        weight_dtype: Type of the weights, a key of `HardwareProfile.peak_flops`.
        kv_dtype_bytes: Bytes of one element of the KV cache.
        default_tensor_parallel: Boards an instance is usually given.
    """

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool = False
    gated: bool = True
    experts: Experts | None = None
    latent: LatentAttention | None = None
    weight_dtype: str = "bf16"
    kv_dtype_bytes: int = 2
    default_tensor_parallel: int = 1

    @property
    def parameters(self) -> int:
        """All parameters, norms left out."""
        return self._count(active=False)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token multiplies with; the input embedding is a look-up."""
        return self._count(active=True)

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take."""
        return round(self.parameters * BYTES_PER_ELEMENT[self.weight_dtype])

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory that one token takes in the KV cache."""
        latent = self.latent
        elements = latent.cached if latent else 2 * self.kv_heads * self.head_dim
        return self.layers * elements * self.kv_dtype_bytes

    def _count(self, *, active: bool) -> int:
        matrices = 3 if self.gated else 2
        total = self.layers * self._attention_parameters()
        moe, dense_layers = self.experts, self.layers
        if moe is not None:
            dense_layers = moe.dense_layers
            routed = (moe.per_token if active else moe.count) * moe.intermediate_size
            width = routed + moe.shared_intermediate_size
            router = moe.count * self.hidden_size
            total += (self.layers - dense_layers) * (matrices * self.hidden_size * width + router)
        total += dense_layers * matrices * self.hidden_size * self.intermediate_size
        embeddings = 1 if active or self.tied_embeddings else 2
        return total + embeddings * self.vocab_size * self.hidden_size

    def _attention_parameters(self) -> int:
        hidden, heads, latent = self.hidden_size, self.heads, self.latent
        if latent is None:
            return hidden * self.head_dim * 2 * (heads + self.kv_heads)
        rank, queries = latent.query_rank, heads * latent.query_dim
        query = rank * (hidden + queries) if rank else hidden * queries
        expanded = latent.kv_rank * heads * (latent.key_dim + latent.value_dim)
        return query + hidden * latent.cached + expanded + heads * latent.value_dim * hidden

    @classmethod
    def from_hf_config(
        cls, config: Mapping[str, Any] | str | Path, *, name: str | None = None
    ) -> ModelProfile:
        """Build a profile from a Hugging Face ``config.json``.

        Args:
            config: The parsed file, or its path.
            name: Name of the profile; by default that in the file.

        Raises:
            ProfileError: If it cannot be read, a needed key is missing, or the architecture is not
                covered; the text names the key.
        """
        if isinstance(config, (str, Path)):
            return cls.from_hf_config(_read_json(Path(config)), name=name)
        return parse(cls, profile_fields(config, name), "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProfileError(
            f"model configuration {path} cannot be read: {error}. Name a Hugging Face config.json."
        ) from None
    if not isinstance(table, dict):
        raise ProfileError(f"model configuration {path} is no JSON object. Name a config.json.")
    return table


BYTES_PER_ELEMENT = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0}
"""Size of one weight."""


def model_names() -> list[str]:
    """Names of the profiles that ship with the package."""
    return names("model")


def load_model(name_or_path: str | Path) -> ModelProfile:
    """Read a model profile.

    Args:
        name_or_path: A name from `model_names`, a TOML file of the same form, or a Hugging Face
            ``config.json``.

    Raises:
        UnknownNameError: If there is no such profile.
        ProfileError: If the file is not a model profile.
    """
    if str(name_or_path).endswith(".json"):
        return ModelProfile.from_hf_config(Path(name_or_path))
    return parse(ModelProfile, *read_profile("model", name_or_path))
