"""Published model configurations: read right, or refused by the key that is not modelled."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.errors import ProfileError, VoltanaError
from voltana.plant import PlantModel, load_hardware
from voltana.plant.cluster import ClusterSpec
from voltana.plant.model import ModelProfile
from voltana.plant.weight_formats import FORMATS
from voltana.values import Load

H100 = load_hardware("h100-sxm")
CASES = Path(__file__).parents[2] / "shared" / "cases" / "04-hf-config" / "architectures.json"
PLAIN = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
MOE = PLAIN | {"num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 1024}
GEMMA_3_27B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "num_hidden_layers": 62,
        "sliding_window": 1024,
        "vocab_size": 262208,
    },
}
LATENT = PLAIN | {
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}


def profile(**changes: object) -> ModelProfile:
    return ModelProfile.from_hf_config(PLAIN | changes)


@pytest.mark.data
def test_published_architectures():
    if not CASES.is_file():
        pytest.skip("../shared/cases is absent")
    refused = {}
    for name, case in json.loads(CASES.read_text()).items():
        try:
            model = ModelProfile.from_hf_config(case["config"])
        except ProfileError as error:
            refused[name] = str(error)
            continue
        published = 1e9 * case["published_params_b"]
        assert model.parameters == pytest.approx(published, rel=0.03), name
        assert model.kv_bytes_per_token == case["kv_bytes_per_token_all_layers"], name
    assert list(refused) == ["qwen3-next-80b"]
    assert "full_attention_interval" in refused["qwen3-next-80b"]


@pytest.mark.parametrize(
    ("changes", "dense"),
    [
        ({"first_k_dense_replace": 3}, 3),
        ({"decoder_sparse_step": 2}, 16),
        ({"interleave_moe_layer_step": 4}, 24),
        ({"mlp_only_layers": [0, 5]}, 2),
        ({"moe_layer_freq": [0, 0] + [1] * 30}, 2),
        ({"moe_layers": [1, 3, 5]}, 29),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 30, "moe_layer_interval": 1}, 2),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_layers_without_experts_under_many_names(changes, dense):
    assert ModelProfile.from_hf_config(MOE | changes).experts.dense_layers == dense


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"n_shared_experts": 2}, 2048),
        ({"shared_expert_intermediate_size": 512}, 512),
        ({"num_shared_experts": 3, "moe_shared_expert_intermediate_size": 100}, 300),
        ({"shared_intermediate_size": 700}, 700),
        ({"model_type": "llama4_text"}, 1024),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_shared_experts_under_many_names(changes, width):
    assert ModelProfile.from_hf_config(MOE | changes).experts.shared_intermediate_size == width


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"sliding_window": 4096}, 32),
        ({"sliding_window": 4096, "use_sliding_window": False}, None),
        ({"sliding_window": None}, None),
        ({"sliding_window": 512, "sliding_window_pattern": 4}, 24),
        ({"sliding_window": 512, "sliding_window_pattern": "LLLG"}, 24),
        ({"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 20}, 12),
        ({"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"] * 16}, 16),
        ({"model_type": "gemma2"}, 16),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192}, 24),
    ],
)
def test_windows_of_layers(changes, layers):
    window = profile(**changes).window
    assert (None if window is None else window.layers) == layers


def test_a_window_bounds_what_its_layers_read():
    model = ModelProfile.from_hf_config(GEMMA_3_27B)
    whole = model.model_copy(update={"window": None})
    board = load_hardware("h200-sxm")
    short, long = Load.decode(4, 4 * 1000), Load.decode(4, 4 * 100_000)
    windowed, full = (PlantModel(board, each, 2) for each in (model, whole))
    assert windowed.latency_s(short, 1980) == pytest.approx(full.latency_s(short, 1980), rel=0.03)
    saved_s = full.latency_s(long, 1980) - windowed.latency_s(long, 1980)
    attention_s = full.latency_s(long, 1980) - full.latency_s(short, 1980)
    assert saved_s == pytest.approx(attention_s * 52 / 62, rel=0.02)
    prompt = Load.prefill([(100_000, 0)])
    assert windowed.latency_s(prompt, 1980) < 0.7 * full.latency_s(prompt, 1980)


def test_tables_agree_with_the_slow_composition_where_layers_have_windows():
    plant = PlantModel(load_hardware("h200-sxm"), ModelProfile.from_hf_config(GEMMA_3_27B), 2)
    mixed = Load(
        prefill_tokens=3000, prefill_attended_pairs=4e6, decode_requests=9, decode_kv_tokens=50_000
    )
    for load in (Load.decode(9, 2000), Load.decode(9, 90_000), Load.prefill([(5000, 0)]), mixed):
        parts = plant.latency.breakdown(load, 990.0)
        step = plant.iterate(load, 990.0)
        assert step.latency_s == pytest.approx(sum(part.seconds for part in parts), rel=1e-9)
        assert step.power_w == pytest.approx(2 * plant.power.power_w(parts, 990.0), rel=1e-9)


@pytest.mark.parametrize(
    ("quantisation", "gigabytes", "arithmetic"),
    [
        ({"quant_method": "fp8"}, 9.08, "fp8"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, 9.08, "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 5.73, "bf16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, 6.14, "bf16"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
            },
            5.73,
            "bf16",
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 6.03, "bf16"),
    ],
)
def test_weight_formats_have_their_bytes_and_leave_embeddings_alone(
    quantisation, gigabytes, arithmetic
):
    model = profile(quantization_config=quantisation)
    assert model.weight_bytes == pytest.approx(1e9 * gigabytes, rel=0.005)
    plant = PlantModel(load_hardware("h100-sxm"), model)
    load = Load.prefill([(4096, 0)])
    faster = PlantModel(load_hardware("h100-sxm"), profile()).latency_s(load, 1980)
    assert (plant.latency_s(load, 1980) < 0.75 * faster) == (arithmetic == "fp8")


def test_packed_experts_leave_the_rest_in_bf16():
    model = ModelProfile.from_hf_config(MOE | {"quantization_config": {"quant_method": "mxfp4"}})
    assert (model.layer_dtype, model.expert_dtype) == ("bf16", "mxfp4")
    bf16 = ModelProfile.from_hf_config(MOE)
    experts = 32 * 64 * 3 * 4096 * 1024
    assert bf16.weight_bytes - model.weight_bytes == pytest.approx(experts * (2 - 17 / 32))


def test_nested_text_config_has_its_own_tying_and_format():
    text = PLAIN | {"tie_word_embeddings": True, "quantization_config": {"quant_method": "fp8"}}
    outer = {"model_type": "some_vl", "text_config": text, "tie_word_embeddings": False}
    model = ModelProfile.from_hf_config(outer)
    assert model.tied_embeddings
    assert model.weight_dtype == "fp8"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model_type": "bert"}, "model_type"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"hybrid_override_pattern": "M-M*"}, "hybrid_override_pattern"),
        ({"attn_layer_period": 8}, "attn_layer_period"),
        ({"mamba_d_state": 16}, "mamba_d_state"),
        ({"block_configs": [{"attention": {"no_op": True}}]}, "block_configs"),
        ({"layer_types": ["linear_attention", "full_attention"] * 16}, "layer_types"),
        ({"attn_type_list": [0] * 32}, "attn_type_list"),
        ({"ffn_multipliers": [0.5] * 32}, "ffn_multipliers"),
        ({"num_kv_shared_layers": 5}, "num_kv_shared_layers"),
        ({"n_copy_experts": 5}, "n_copy_experts"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quant_method"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_modelled_is_refused_by_its_key(config, key):
    with pytest.raises(ProfileError, match=rf"{key}.*not modelled"):
        ModelProfile.from_hf_config(PLAIN | config)


JUNK = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.integers(-5, 3),
    st.floats(allow_nan=True),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(
    key=st.sampled_from([*LATENT, *MOE, "text_config", "quantization_config", "sliding_window",
                         "head_dim", "layer_types", "moe_layer_freq", "mlp_only_layers",
                         "n_shared_experts", "tie_word_embeddings", "sliding_window_pattern"]),
    value=JUNK,
)  # fmt: skip
def test_a_wrong_value_gives_one_line_or_a_profile_that_works(key, value):
    text = ""
    try:
        model = ModelProfile.from_hf_config(LATENT | MOE | {key: value})
        assert PlantModel(H100, model).latency.latency_s(Load.decode(2, 500), 1980) > 0
    except VoltanaError as error:
        text = str(error)
    assert "\n" not in text


@settings(max_examples=200, deadline=None)
@given(
    method=st.sampled_from(["fp8", "mxfp4", "awq", "gptq", "compressed-tensors", "modelopt"])
    | JUNK,
    key=st.sampled_from(["format", "bits", "w_bit", "group_size", "quant_algo", "config_groups"]),
    value=JUNK,
)
def test_a_wrong_quantisation_gives_one_line_or_a_known_format(method, key, value):
    quantisation = {"quant_method": method, "bits": 4} | {key: value}
    text = ""
    try:
        assert profile(quantization_config=quantisation).weight_dtype in FORMATS
    except ProfileError as error:
        text = str(error)
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.parametrize("size", [0, -2, 16, "128", True, [64]])
def test_groups_of_weights_that_are_not_modelled_are_refused_by_their_key(size):
    quantisation = {"quant_method": "gptq", "bits": 4, "group_size": size}
    with pytest.raises(ProfileError, match=r"group_size .* is not modelled"):
        profile(quantization_config=quantisation)


@pytest.mark.parametrize("config", [[], "llama", 5, None])
def test_a_configuration_that_is_no_object_is_refused(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ProfileError):
        ModelProfile.from_hf_config(path)


@pytest.mark.parametrize(
    ("changes", "copies"),
    [({"num_key_value_heads": 8}, 1), ({"num_key_value_heads": 4}, 2), (LATENT, 8)],
)
def test_boards_that_hold_the_same_kv_share_no_room(changes, copies):
    model = profile(**changes)
    slo = SimpleNamespace()
    spec = ClusterSpec(hardware=load_hardware("h200-sxm"), model=model, slo=slo, tensor_parallel=8)
    room = 8 * spec.hardware.memory_bytes * spec.engine.memory_fraction - model.weight_bytes
    assert spec.kv_capacity_tokens == int(room / (copies * model.kv_bytes_per_token))


@pytest.mark.data
def test_kv_room_of_deepseek_v3_is_that_of_the_case_but_for_weights_that_stay_in_bf16():
    """../shared/cases/06 reckons all weights at one byte; embeddings and head have two."""
    case = json.loads(CASES.read_text())["deepseek-v3"] if CASES.is_file() else None
    if case is None:
        pytest.skip("../shared/cases is absent")
    model = ModelProfile.from_hf_config(case["config"])
    spec = ClusterSpec(
        hardware=load_hardware("h200-sxm"), model=model, slo=SimpleNamespace(), tensor_parallel=8
    )
    wider = model.weight_bytes - model.parameters
    assert wider == pytest.approx(2 * model.vocab_size * model.hidden_size, rel=0.1)
    copies = spec.tensor_parallel
    assert spec.kv_capacity_tokens == int(572_088.08 - wider / copies / model.kv_bytes_per_token)
