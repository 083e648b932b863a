"""Refuses architectures that a model profile cannot describe, by the keys that tell them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from voltana.plant.hf_experts import KNOWN, refuse_unknown_expert_keys
from voltana.plant.hf_keys import not_modelled

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENCODERS = {"bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra", "deberta"}
_ENCODERS |= {"deberta-v2", "modernbert", "nomic_bert", "mpnet", "camembert", "ernie", "xlnet"}
_ENCODERS |= {"bart", "mbart", "t5", "mt5", "umt5", "longt5", "pegasus", "marian", "m2m_100"}
_ENCODERS |= {"led", "bigbird", "bigbird_pegasus", "blenderbot", "prophetnet", "whisper", "nllb"}
_ENCODERS |= {"clip", "siglip", "vit", "wav2vec2", "hubert", "megatron-bert", "funnel", "fsmt"}
_ENCODERS |= {"switch_transformers", "speech_to_text", "encoder-decoder", "big_bird", "nezha"}

_ENCODERS |= {"bert-generation", "data2vec-text", "rembert", "roberta-prelayernorm", "roc_bert"}
_ENCODERS |= {"roformer", "xlm-roberta-xl", "xmod", "xlm", "git"}

_OTHERS = {"cpmant", "ctrl", "doge", "hrm_text", "jetmoe", "moshi", "modernbert-decoder", "zaya"}
"""Models of a build of their own that no single key tells."""

_PARTS = (
    (r"encoder_(layers|attention_heads|ffn_dim)|decoder_layers|num_decoder_layers|^d_kv$",
     "encoders are"),
    (r"mamba|ssm|state_size|conv_kernel|time_step|rwkv|d_state|d_conv", "state-space layers are"),
    (r"linear_(num|key|value|conv|attn)|full_attention_interval|attn_type_list|lightning|"
     r"hybrid|recurrent|lru_width|block_types|short_conv|conv_l_cache|use_linear|kda_|gdn_",
     "layers without attention, or with a linear one, are"),
    (r"^attn_layer_|^attention_layer_|^full_attn_idxs|layers_block_type|^block_configs|"
     r"^layer_configs|^expert_layer_|^attn_config|^ffn_config|per_layer_config",
     "blocks that differ from layer to layer are"),
    (r"cross_attention_layers|num_kv_shared_layers|cla_share_factor|use_cla|kv_share|altup|"
     r"laurel|matformer|hidden_size_per_layer_input", "layers that share or add to others are"),
    (r"parallel_hybrid|memory_layer|product_key|engram", "such layers are"),
    (r"blocksparse|^dense_attention_every", "block-sparse attention is"),
    (r"residual_moe|attn_mlp_res$", "a dense part beside the experts is"),
    (r"^attention_other|^swa_|^global_head|num_global_|k_eq_v", "heads that differ by layer are"),
    (r"^index_(topk|n_heads|head_dim)$|sparse_attention|^moba_|^nsa_", "sparse attention is"),
)  # fmt: skip
_REFUSED = tuple((re.compile(pattern), what) for pattern, what in _PARTS)

_LISTS = {"layer_types", "no_rope_layers", "mlp_only_layers", *KNOWN}
"""Lists by layer that are read."""

_TOKENS = re.compile(r"token|_id$|_ids$|suppress|label|architectures|image|vision|grid|stop")


def refuse_what_is_not_modelled(
    text: Mapping[str, Any], kind: str, *, layers: int | None = None
) -> None:
    """Refuse a configuration by what its keys say.

    Args:
        text: The configuration of the text model, or the whole one.
        kind: Its ``model_type``.
        layers: Its layers; None looks at nothing that depends on them.

    Raises:
        ProfileError: If something is not modelled; the text names the key.
    """
    if text.get("is_encoder_decoder"):
        raise not_modelled("is_encoder_decoder", text["is_encoder_decoder"], "encoders are")
    if kind.lower() in _ENCODERS:
        raise not_modelled("model_type", kind, "encoders are")
    if kind in _OTHERS:
        raise not_modelled("model_type", kind, "models of that build are")
    if layers is None:
        return
    for key, value in text.items():
        if value in (None, False, 0, "") or value in ([], {}) or isinstance(value, float):
            continue
        if _means_nothing(text, key, value):
            continue
        for pattern, what in _REFUSED:
            if pattern.search(key) and value is not None:
                raise not_modelled(key, value, what)
        _refuse_list(key, value, layers)
    _refuse_projected_embeddings(text)
    refuse_unknown_expert_keys(text)


def _means_nothing(text: Mapping[str, Any], key: str, value: object) -> bool:
    """A key of a family with several kinds of layers, where this model has the usual kind only."""
    if key == "cla_share_factor":
        return text.get("use_cla") is False or value == 1
    return key == "attn_type_list" and isinstance(value, list) and all(one == 1 for one in value)


def _refuse_projected_embeddings(text: Mapping[str, Any]) -> None:
    width, hidden = text.get("word_embed_proj_dim"), text.get("hidden_size")
    if width is not None and width != hidden:
        raise not_modelled("word_embed_proj_dim", width, "embeddings of another width are")


def _refuse_list(key: str, value: object, layers: int) -> None:
    """A list with an entry for each layer says that they differ, and so does one of objects."""
    if not isinstance(value, list) or key in _LISTS or _TOKENS.search(key):
        return
    if len(value) == layers or any(isinstance(item, (dict, list)) for item in value):
        raise not_modelled(key, value, "layers that differ in that are")
