"""The operators of a transformer's iteration, on one board of a tensor-parallel group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from voltana.plant.weight_formats import weight_format

if TYPE_CHECKING:
    from voltana.plant.model import LatentAttention, ModelProfile

_QUANTISED_STREAMS = 1.5
"""Two bytes read and one written, in elements of two bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """Time of one kind of operator at one clock.

    Attributes:
        kind: See `Cost.kind`.
        seconds: What it takes.
        flops: Floating-point operations.
        bytes: Bytes moved.
        compute_s: What the part bound by the SMs would take alone at this clock.
        memory_s: What the part bound by memory would take alone at this clock.
    """

    kind: str
    seconds: float
    flops: float
    bytes: float
    compute_s: float
    memory_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """A matrix product of [rows, k] with [k, n], `count` times.

    Attributes:
        name: What it is for.
        n: Columns of the weight on this board.
        k: Rows of the weight on this board.
        count: Times per iteration.
        experts: Weights to choose from; 1 for a dense layer.
        per_token: Weights that each row is multiplied with.
        dtype: Format of the weights, a key of `weight_formats.FORMATS`.
    """

    name: str
    n: int
    k: int
    count: int = 1
    experts: int = 1
    per_token: int = 1
    dtype: str = "bf16"


class _Same(TypedDict):
    """What the products of every layer have in common."""

    count: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """A kernel that streams values through memory, `count` times.

    Attributes:
        name: What it is for.
        elements: Values read and written for every token.
        row: Values that one block works on, one after the other.
        count: Times per iteration.
    """

    name: str
    elements: float
    row: float
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Causal attention of one board's heads, `count` times."""

    heads: int
    kv_heads: int
    head_dim: int
    kv_dtype_bytes: int
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduce:
    """Sum of `elements` values for every token over the group, `count` times."""

    elements: int
    count: int = 1


def layer_gemms(model: ModelProfile, tensor_parallel: int) -> tuple[Gemm, ...]:
    """Matrix products of all layers for every token of the iteration."""
    tp, hidden, layers = tensor_parallel, model.hidden_size, model.layers
    query, own = model.heads // tp * model.head_dim, _same(model)
    kv_width = 2 * kv_heads_of_a_board(model, tp) * model.head_dim
    gemms = [
        Gemm(name="qkv", n=query + kv_width, k=hidden, **own),
        Gemm(name="o", n=hidden, k=query, **own),
    ]
    if model.latent is not None:
        gemms = _latent_gemms(model, model.latent, tp)
    moe = model.experts
    dense_layers = layers if moe is None else moe.dense_layers
    gemms += _feed_forward("", model, model.intermediate_size // tp, dense_layers)
    if moe is not None:
        count = layers - dense_layers
        gemms += [
            Gemm(name="router", n=moe.count, k=hidden, count=count, dtype=model.unpacked_dtype)
        ]
        gemms += _feed_forward(
            "expert_",
            model,
            moe.intermediate_size // tp,
            count,
            dtype=model.expert_dtype,
            experts=moe.count,
            per_token=moe.per_token,
        )
        gemms += _feed_forward("shared_", model, moe.shared_intermediate_size // tp, count)
    return tuple(gemms)


def _same(model: ModelProfile) -> _Same:
    return {"count": model.layers, "dtype": model.layer_dtype}


def kv_heads_of_a_board(model: ModelProfile, tensor_parallel: int) -> int:
    """Whole KV heads, at least one: with more boards than heads, several boards hold the same."""
    return -(-model.kv_heads // tensor_parallel)


def _latent_gemms(model: ModelProfile, latent: LatentAttention, tp: int) -> list[Gemm]:
    """Latent attention compresses on every board and expands each board's own heads.

    In decoding the expansion is absorbed into query and output, which multiplies as much.
    """
    hidden, heads, rank = model.hidden_size, model.heads // tp, latent.kv_rank
    down = latent.query_rank + latent.cached
    up = heads * (latent.key_dim + latent.value_dim)
    own = _same(model)
    return [
        Gemm(name="qkv_down", n=down, k=hidden, **own),
        Gemm(name="q_up", n=heads * latent.query_dim, k=latent.query_rank or hidden, **own),
        Gemm(name="kv_up", n=up, k=rank, **own),
        Gemm(name="o", n=hidden, k=heads * latent.value_dim, **own),
    ]


def _feed_forward(
    prefix: str,
    model: ModelProfile,
    width: int,
    count: int,
    *,
    dtype: str = "",
    experts: int = 1,
    per_token: int = 1,
) -> list[Gemm]:
    if not width or not count:
        return []
    up = 2 * width if model.gated else width
    dtype = dtype or model.layer_dtype

    def gemm(name: str, n: int, k: int) -> Gemm:
        return Gemm(
            name=prefix + name, n=n, k=k, count=count, dtype=dtype, experts=experts,
            per_token=per_token,
        )  # fmt: skip

    return [gemm("gate_up", up, model.hidden_size), gemm("down", model.hidden_size, width)]


def head_gemm(model: ModelProfile, tensor_parallel: int) -> Gemm:
    """The output embedding, for the rows whose next token is sampled."""
    columns = model.vocab_size // tensor_parallel
    return Gemm(name="lm_head", n=columns, k=model.hidden_size, dtype=model.unpacked_dtype)


def layer_elementwise(model: ModelProfile, tensor_parallel: int) -> tuple[Elementwise, ...]:
    """Norms (fused with the residual addition), rotary embedding and activation of all layers."""
    tp, hidden, layers = tensor_parallel, model.hidden_size, model.layers
    rotary = (model.heads + model.kv_heads) / tp * model.head_dim
    width = _activation_width(model) / tp
    streams = 3 if model.gated else 2
    return (
        Elementwise(name="embedding", elements=2 * hidden, row=hidden),
        Elementwise(name="add_norm", elements=4 * hidden, row=hidden, count=2 * layers + 1),
        Elementwise(name="rope", elements=2 * rotary, row=rotary / 2, count=layers),
        Elementwise(name="activation", elements=streams * width, row=width, count=layers),
        *_routing(model),
        *_quantisation(model, tp),
    )


def _routing(model: ModelProfile) -> tuple[Elementwise, ...]:
    """What a mixture of experts adds: choosing experts, sorting rows by them, adding up results.

    Rows are addressed, not copied, but the results of a token's experts are added.
    """
    moe = model.experts
    if moe is None:
        return ()
    count, hidden = model.layers - moe.dense_layers, model.hidden_size
    copies = moe.per_token + 1
    return (
        Elementwise(name="choice", elements=2 * moe.count, row=moe.count, count=count),
        Elementwise(name="sorting", elements=4 * moe.per_token, row=0, count=2 * count),
        Elementwise(name="combination", elements=copies * hidden, row=hidden, count=count),
    )


def _quantisation(model: ModelProfile, tp: int) -> tuple[Elementwise, ...]:
    """Kernels that convert what a product reads, where the format of the weights asks for it."""
    found = []
    for gemm in layer_gemms(model, tp):
        if not weight_format(gemm.dtype).quantises:
            continue
        # A token's experts share their input, and have each their own activations.
        rows = gemm.per_token if gemm.name == "expert_down" else 1
        elements = _QUANTISED_STREAMS * gemm.k * rows
        found.append(
            Elementwise(name=f"{gemm.name} input", elements=elements, row=gemm.k, count=gemm.count)
        )
    return tuple(found)


def _activation_width(model: ModelProfile) -> float:
    """Width of the feed-forward part that a token uses, averaged over layers."""
    moe = model.experts
    if moe is None:
        return model.intermediate_size
    active = moe.per_token * moe.intermediate_size + moe.shared_intermediate_size
    dense = moe.dense_layers / model.layers
    return dense * model.intermediate_size + (1 - dense) * active


def prefill_attention(
    model: ModelProfile, tensor_parallel: int, *, local: bool = False
) -> Attention:
    """Attention over new tokens, of the layers with a window or of the others.

    A latent one runs over the expanded heads.
    """
    latent = model.latent
    if latent is None:
        return _attention(model, tensor_parallel, local=local)
    heads = model.heads // tensor_parallel
    width = (latent.query_dim + latent.value_dim) // 2
    return Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=width,
        kv_dtype_bytes=2,
        count=_attending_layers(model, local=local),
    )


def decode_attention(
    model: ModelProfile, tensor_parallel: int, *, local: bool = False
) -> Attention:
    """Attention over cached tokens, of the layers with a window or of the others.

    A latent one reads one vector for all heads.
    """
    latent = model.latent
    if latent is None:
        return _attention(model, tensor_parallel, local=local)
    return Attention(
        heads=model.heads // tensor_parallel,
        kv_heads=1,
        head_dim=latent.cached // 2,
        kv_dtype_bytes=model.kv_dtype_bytes,
        count=_attending_layers(model, local=local),
    )


def _attention(model: ModelProfile, tensor_parallel: int, *, local: bool) -> Attention:
    return Attention(
        heads=model.heads // tensor_parallel,
        kv_heads=kv_heads_of_a_board(model, tensor_parallel),
        head_dim=model.head_dim,
        kv_dtype_bytes=model.kv_dtype_bytes,
        count=_attending_layers(model, local=local),
    )


def _attending_layers(model: ModelProfile, *, local: bool) -> int:
    windowed = 0 if model.window is None else model.window.layers
    return windowed if local else model.layers - windowed


def all_reduces(model: ModelProfile, tensor_parallel: int) -> tuple[AllReduce, ...]:
    """Two sums a layer, after attention and after the feed-forward part."""
    if tensor_parallel == 1:
        return ()
    return (AllReduce(elements=model.hidden_size, count=2 * model.layers),)
