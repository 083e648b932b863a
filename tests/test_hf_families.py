"""Configurations of published families, as their files say it, against their published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from voltana.errors import ProfileError
from voltana.plant.model import ModelProfile
from voltana.plant.weight_formats import FORMATS

_NAMES = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")


def family(kind: str, hidden: int, layers: int, heads: int, **more: object) -> dict[str, object]:
    return dict(zip(_NAMES, (kind, hidden, layers, heads), strict=True)) | more


MOE = family("qwen3_moe", 2048, 48, 32, num_key_value_heads=4, head_dim=128, vocab_size=151936)
MOE |= {"intermediate_size": 6144, "moe_intermediate_size": 768}
MOE |= {"num_experts": 128, "num_experts_per_tok": 8}
DENSE = family("llama", 4096, 32, 32, num_key_value_heads=8, vocab_size=128256)
DENSE |= {"intermediate_size": 14336}
LATENT = {"kv_lora_rank": 512, "q_lora_rank": 768, "qk_nope_head_dim": 192}
LATENT |= {"qk_rope_head_dim": 64, "v_head_dim": 256}

UNGATED = [
    (8.05, 131072, family("apertus", 4096, 32, 32, num_key_value_heads=8, hidden_act="xielu",
                          intermediate_size=21504, vocab_size=131072)),
    (4.6, 73728, family("arcee", 2560, 36, 20, num_key_value_heads=4, hidden_act="relu2",
                        head_dim=128, intermediate_size=18432, vocab_size=128004)),
    (6.92, 8192, {"model_type": "RefinedWebModel", "hidden_size": 4544, "n_layer": 32,
                  "n_head": 71, "multi_query": True, "vocab_size": 65024}),
    (41.3, 122880, {"model_type": "RefinedWeb", "hidden_size": 8192, "n_layer": 60,
                    "n_head": 128, "n_head_kv": 8, "vocab_size": 65024}),
]  # fmt: skip
OWN_WIDTHS = [
    (2.8, 327680, family("stablelm_epoch", 2560, 32, 32, num_key_value_heads=32,
                         intermediate_size=6912, vocab_size=50304)),
    (7.72, 524288, family("qwen", 4096, 32, 32, kv_channels=128, intermediate_size=22016,
                          vocab_size=151936, tie_word_embeddings=False)),
    (6.89, 524288, {"model_type": "hf_olmo", "d_model": 4096, "n_heads": 32, "n_layers": 32,
                    "mlp_ratio": 4, "mlp_hidden_size": 22016, "activation_type": "swiglu",
                    "vocab_size": 50280, "embedding_size": 50304, "weight_tying": False}),
    (8.0, 524288, {"model_type": "llada", "d_model": 4096, "n_heads": 32, "n_kv_heads": 32,
                   "n_layers": 32, "mlp_hidden_size": 12288, "activation_type": "silu",
                   "vocab_size": 126464, "weight_tying": False}),
    (6.2, 458752, {"model_type": "chatglm", "num_layers": 28, "hidden_size": 4096,
                   "inner_hidden_size": 16384, "num_attention_heads": 32, "vocab_size": 130528}),
    (2.72, 368640, family("minicpm", 2304, 40, 36, num_key_value_heads=36,
                          intermediate_size=5760, vocab_size=122753)),
]  # fmt: skip
LISTED = [
    (80.4, 131072, family("hunyuan_v1_moe", 4096, 32, 32, num_key_value_heads=8, head_dim=128,
                          intermediate_size=3072, vocab_size=128167, num_experts=64,
                          moe_topk=[8] * 32, moe_intermediate_size=[3072] * 32,
                          num_shared_expert=[1] * 32, use_cla=False, cla_share_factor=2,
                          tie_word_embeddings=True)),
    (229, 253952, family("minimax_m2", 3072, 62, 48, num_key_value_heads=8, head_dim=128,
                         intermediate_size=1536, vocab_size=200064, num_local_experts=256,
                         num_experts_per_tok=8, attn_type_list=[1] * 62)),
    (30, 54144, family("glm4_moe_lite", 2048, 47, 20, num_key_value_heads=20, vocab_size=154880,
                       intermediate_size=10240, moe_intermediate_size=1536, n_routed_experts=64,
                       n_shared_experts=1, num_experts_per_tok=4,
                       mlp_layer_types=["dense"] + ["sparse"] * 46, **LATENT)),
]  # fmt: skip
NESTED = [
    (12.25, 163840, {"model_type": "llava", "text_config": {
        "model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40, "head_dim": 128,
        "vocab_size": 131072, "sliding_window": None}}),
    (7.24, 131072, {"model_type": "llava_next", "text_config": {
        "model_type": "mistral", "vocab_size": 32064, "sliding_window": None}}),
    (6.74, 524288, {"model_type": "llava", "text_config": {
        "model_type": "llama", "vocab_size": 32064}}),
    (30.5, 98304, {"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": MOE}}),
    (15.7, 31104, {"model_type": "deepseek_vl_v2", "language_config": family(
        "deepseek_v2", 2048, 27, 16, kv_lora_rank=512, q_lora_rank=None, intermediate_size=10944,
        moe_intermediate_size=1408, n_routed_experts=64, n_shared_experts=2, vocab_size=102400,
        num_experts_per_tok=6, first_k_dense_replace=1)}),
]  # fmt: skip


@pytest.mark.parametrize(("billions", "kv", "config"), [*UNGATED, *OWN_WIDTHS, *LISTED, *NESTED])
def test_families_that_say_it_their_own_way(billions, kv, config):
    model = ModelProfile.from_hf_config(config)
    assert model.parameters == pytest.approx(1e9 * billions, rel=0.03)
    assert model.kv_bytes_per_token == kv


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"model_type": "qwen2"}, None),
        ({"model_type": "qwen3"}, None),
        ({"model_type": "mimo"}, None),
        ({"model_type": "gpt_oss"}, 16),
        ({"model_type": "olmo3"}, 24),
        ({"model_type": "exaone4"}, 24),
        ({"model_type": "cohere2", "layer_switch": 8, "sliding_window_pattern": None}, 28),
        ({"model_type": "afmoe", "global_attn_every_n_layers": 4}, 24),
    ],
)
def test_windows_that_a_family_has_without_a_list_of_layers(changes, layers):
    window = ModelProfile.from_hf_config(DENSE | {"sliding_window": 4096} | changes).window
    assert (None if window is None else window.layers) == layers


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "phi3small", "blocksparse_block_size": 64}, "blocksparse_block_size"),
        ({"residual_moe": True}, "residual_moe"),
        ({"parallel_attn_mlp_res": True}, "parallel_attn_mlp_res"),
        ({"v_head_dim": 256}, "v_head_dim"),
        ({"word_embed_proj_dim": 512}, "word_embed_proj_dim"),
        ({"swa_num_key_value_heads": 4}, "swa_num_key_value_heads"),
        ({"attn_type_list": [0] * 7 + [1]}, "attn_type_list"),
        ({"mlp_layer_types": ["dense"] * 31 + ["hash_moe"], "num_experts": 4}, "mlp_layer_types"),
        ({"model_type": "unheard_of", "hidden_act": "relu2"}, "hidden_act"),
        ({"model_type": "jetmoe"}, "model_type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_come_out_wrong_is_refused_by_its_key(changes, key):
    with pytest.raises(ProfileError, match=rf"{key}.*not modelled"):
        ModelProfile.from_hf_config(DENSE | changes)


@pytest.mark.parametrize("key", ["num_key_value_heads", "num_kv_heads", "num_query_groups"])
def test_kv_heads_divide_the_query_heads(key):
    config = {name: value for name, value in DENSE.items() if "key_value" not in name}
    assert ModelProfile.from_hf_config(config | {key: 4}).kv_heads == 4
    for count in (5, 64):
        with pytest.raises(ProfileError, match=f"{key} = {count} .*divisor of the 32"):
            ModelProfile.from_hf_config(config | {key: count})


@pytest.mark.parametrize("key", ["intermediate_size", "hidden_size", "vocab_size"])
def test_a_size_that_a_whole_configuration_lacks_is_no_guess(key):
    config = {name: value for name, value in DENSE.items() if name != key} | {"model_type": "new"}
    with pytest.raises(ProfileError, match=f"lacks '{key}'"):
        ModelProfile.from_hf_config(config)


def _every(*names: str, layers: range = range(48)) -> list[str]:
    return [f"model.layers.{layer}.{name}" for layer in layers for name in names]


_ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")


@pytest.mark.parametrize(
    ("quantisation", "formats"),
    [
        ({"modules_to_not_convert": ["lm_head", "gate", "visual"]}, ("fp8", "fp8")),
        ({"modules_to_not_convert": None}, ("fp8", "fp8")),
        ({"ignore": ["re:.*self_attn.*", "re:.*mlp\\.gate$"]}, ("bf16", "fp8")),
        ({"ignored_layers": ["model.layers.*.self_attn*"]}, ("bf16", "fp8")),
        ({"exclude_modules": _every(*_ATTENTION)}, ("bf16", "fp8")),
        ({"ignore": _every("mlp", layers=range(2))}, ("fp8", "fp8")),
        ({"dynamic": {"-:.*self_attn.*": {}}}, ("bf16", "fp8")),
        ({"ignore": ["re:.*"]}, ("bf16", "bf16")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_configuration_leaves_unpacked_stays_in_bf16(quantisation, formats):
    packed = MOE | {"quantization_config": {"quant_method": "fp8"} | quantisation}
    model = ModelProfile.from_hf_config(packed)
    assert (model.layer_dtype, model.expert_dtype) == formats
    attention = 48 * 2048 * 128 * 2 * (32 + 4)
    fp8 = MOE | {"quantization_config": {"quant_method": "fp8"}}
    wider = model.weight_bytes - ModelProfile.from_hf_config(fp8).weight_bytes
    expected = {("fp8", "fp8"): 0, ("bf16", "fp8"): attention}
    assert wider == expected.get(formats, model.parameters - 2 * 151936 * 2048 - 48 * 128 * 2048)


@pytest.mark.parametrize(
    ("quantisation", "key"),
    [
        ({"modules_to_not_convert": _every(*_ATTENTION)}, "modules_to_not_convert"),
        ({"ignore": [f"model.layers.{layer}" for layer in range(16)]}, "ignore"),
        ({"ignore": ["re:("]}, "ignore"),
        ({"ignore": "lm_head"}, "ignore"),
        ({"dynamic": {"+:.*": {"bits": 8}}}, "dynamic"),
        ({"kv_cache_scheme": {"num_bits": 4}}, "kv_cache_scheme"),
        ({"kv_cache_quant_algo": "NVFP4"}, "kv_cache_quant_algo"),
    ],
)
def test_packing_that_a_profile_cannot_say_is_refused_by_its_key(quantisation, key):
    packed = DENSE | {"quantization_config": {"quant_method": "fp8"} | quantisation}
    with pytest.raises(ProfileError, match=key) as caught:
        ModelProfile.from_hf_config(packed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "kind", "key"),
    [
        ([(8, "float"), (4, "int")], "pack-quantized", "config_groups"),
        ([(4, "int")], "int-quantized", "num_bits"),
        ([(8, "float"), (4, "float")], "nvfp4-pack-quantized", "config_groups"),
    ],
)
def test_groups_of_different_formats_are_refused(groups, kind, key):
    table = {
        str(index): {"weights": {"num_bits": bits, "type": what, "group_size": 128}}
        for index, (bits, what) in enumerate(groups)
    }
    quantisation = {"quant_method": "compressed-tensors", "format": kind, "config_groups": table}
    with pytest.raises(ProfileError, match=key):
        ModelProfile.from_hf_config(DENSE | {"quantization_config": quantisation})


@pytest.mark.parametrize(
    "asked",
    [{"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, {"kv_cache_quant_algo": "FP8"}],
)
def test_a_checkpoint_may_ask_for_a_narrow_cache(asked):
    quantisation = {"quant_method": "modelopt", "quant_algo": "FP8"} | asked
    model = ModelProfile.from_hf_config(DENSE | {"quantization_config": quantisation})
    assert model.kv_bytes_per_token == 32 * 8 * 128 * 2


@pytest.mark.parametrize("nested", [False, True])
def test_compressed_tensors_had_another_key_at_first(nested):
    table = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": []}
    config = DENSE | {"compression_config": table}
    config = {"model_type": "some_vl", "text_config": config} if nested else config
    assert ModelProfile.from_hf_config(config).weight_dtype == "fp8"


def test_a_dense_model_may_be_packed_whole_in_the_format_of_experts():
    packed = DENSE | {"quantization_config": {"quant_method": "mxfp4"}}
    assert ModelProfile.from_hf_config(packed).layer_dtype == "mxfp4"


def test_the_document_lists_every_format():
    page = (Path(__file__).parents[1] / "docs" / "model-configurations.md").read_text(
        encoding="utf-8"
    )
    for name, form in FORMATS.items():
        assert f"| {name} | {form.bytes:.4g} | {form.arithmetic} |" in page
