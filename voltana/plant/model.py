"""Model profiles: a transformer's architecture numbers, and nothing measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from voltana.errors import ProfileError
from voltana.plant.coefficients import Section
from voltana.plant.hf_config import profile_fields
from voltana.plant.profile_files import names, parse, read_profile
from voltana.plant.weight_formats import EXPERTS_ONLY, weight_format
from voltana.users_file import load_json, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]


class Experts(Section):
    """Mixture of experts in the feed-forward layers.

    Attributes:
        count: Routed experts a layer.
        per_token: Routed experts that each token uses.
        intermediate_size: Width of one expert.
        shared_intermediate_size: Width of the experts that every token uses; 0 if none.
        dense_layers: How many layers have a dense feed-forward part instead.
        weight_dtype: Format of the routed experts' weights; None for that of the model.
    """

    count: Count
    per_token: Count
    intermediate_size: Count
    shared_intermediate_size: Whole = 0
    dense_layers: Whole = 0
    weight_dtype: str | None = None


class SlidingWindow(Section):
    """Layers that look at the last tokens only.

    Attributes:
        layers: How many layers do.
        tokens: How many tokens they look at.
    """

    layers: Count
    tokens: Count


class LatentAttention(Section):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one compressed vector a token.

    Attributes:
        query_rank: Width of the compressed query; 0 where queries are not compressed.
        kv_rank: Width of the compressed key-value vector.
        rotary_dim: Width of the part with positions, which all heads share in the cache.
        key_dim: Width of the part of a head's key without positions.
        value_dim: Width of a head's value.
    """

    query_rank: Whole = 0
    kv_rank: Count
    rotary_dim: Count
    key_dim: Count
    value_dim: Count

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
        window: Layers that look at the last tokens only; None where all look at all.
        weight_dtype: Format of the layers' weights, a key of `weight_formats.FORMATS`; embeddings
            and routers are in bf16 unless it is wider.
        kv_dtype_bytes: Bytes of one element of the KV cache.
        default_tensor_parallel: Boards an instance is usually given.
    """

    name: str
    layers: Count
    hidden_size: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate_size: Whole
    vocab_size: Count
    tied_embeddings: bool = False
    gated: bool = True
    experts: Experts | None = None
    latent: LatentAttention | None = None
    window: SlidingWindow | None = None
    weight_dtype: str = "bf16"
    kv_dtype_bytes: Count = 2
    default_tensor_parallel: Count = 1

    @property
    def parameters(self) -> int:
        """All parameters, norms left out."""
        return sum(self._parts().values())

    @property
    def active_parameters(self) -> int:
        """Parameters that one token multiplies with; the input embedding is a look-up."""
        parts = self._parts()
        moe = self.experts
        if moe is not None:
            parts["experts"] = parts["experts"] // moe.count * moe.per_token
        parts["embeddings"] = self.vocab_size * self.hidden_size
        return sum(parts.values())

    @property
    def unpacked_dtype(self) -> str:
        """Type of what no format packs: embeddings and routers."""
        return "fp32" if self.weight_dtype == "fp32" else "bf16"

    @property
    def expert_dtype(self) -> str:
        """Format of the routed experts' weights."""
        own = None if self.experts is None else self.experts.weight_dtype
        return own or self.weight_dtype

    @property
    def layer_dtype(self) -> str:
        """Format of the layers' other weights."""
        alone = self.experts is not None and self.weight_dtype in EXPERTS_ONLY
        return "bf16" if alone else self.weight_dtype

    @property
    def expert_bytes(self) -> int:
        """Memory that the routed experts' weights take, of all that `weight_bytes` counts."""
        return round(self._parts()["experts"] * weight_format(self.expert_dtype).bytes)

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take."""
        formats = {"experts": self.expert_dtype, "layers": self.layer_dtype}
        return round(
            sum(
                count * weight_format(formats.get(part, self.unpacked_dtype)).bytes
                for part, count in self._parts().items()
            )
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory that one token takes in the KV cache, stored once.

        A layer with a window takes it too: the number is that below the window.
        """
        latent = self.latent
        elements = latent.cached if latent else 2 * self.kv_heads * self.head_dim
        return self.layers * elements * self.kv_dtype_bytes

    def kv_copies(self, tensor_parallel: int) -> float:
        """How often the boards of a group together store a token.

        Every board holds whole KV heads, at least one, and the whole of a latent vector.
        """
        if self.latent is not None:
            return float(tensor_parallel)
        return tensor_parallel * -(-self.kv_heads // tensor_parallel) / self.kv_heads

    def _parts(self) -> dict[str, int]:
        """Parameters by what format they are in."""
        matrices = 3 if self.gated else 2
        moe, dense_layers = self.experts, self.layers
        experts = routers = shared = 0
        if moe is not None:
            dense_layers = moe.dense_layers
            sparse, expert = self.layers - dense_layers, matrices * self.hidden_size
            experts = sparse * moe.count * expert * moe.intermediate_size
            shared = sparse * expert * moe.shared_intermediate_size
            routers = sparse * moe.count * self.hidden_size
        dense = dense_layers * matrices * self.hidden_size * self.intermediate_size
        embeddings = 1 if self.tied_embeddings else 2
        return {
            "layers": self.layers * self._attention_parameters() + dense + shared,
            "experts": experts,
            "routers": routers,
            "embeddings": embeddings * self.vocab_size * self.hidden_size,
        }

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
        table = load_json(read_text(path))
    except (OSError, ValueError) as error:
        raise ProfileError(
            f"model configuration {path} cannot be read: {error}. Name a Hugging Face config.json."
        ) from None
    if not isinstance(table, dict):
        raise ProfileError(f"model configuration {path} is no JSON object. Name a config.json.")
    return table


BYTES_PER_ELEMENT = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0}
"""Size of one element of a product, by its arithmetic."""


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
