"""Hardware and model profiles: what ships, what users give, and what goes wrong."""

from __future__ import annotations

import itertools
import json
from importlib import resources

import pytest

from voltana.errors import ProfileError, UnknownNameError
from voltana.plant import load_hardware, load_model
from voltana.plant.hardware import hardware_names
from voltana.plant.latency import LatencyModel
from voltana.plant.model import ModelProfile, model_names
from voltana.values import Load

LLAMA_3_1_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
MIXTRAL_8X7B = {
    "model_type": "mixtral",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "mlp_only_layers": [],
    "decoder_sparse_step": 1,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
DEEPSEEK_MOE_16B = {
    "model_type": "deepseek",
    "num_hidden_layers": 28,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "vocab_size": 102400,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "vocab_size": 129280,
    "quantization_config": {"quant_method": "fp8"},
    "tie_word_embeddings": False,
}


def config(source: dict, **changes) -> dict:
    merged = source | changes
    return {key: value for key, value in merged.items() if value is not None}


def test_boards_that_the_documentation_names_ship():
    assert {"a100-sxm4-80gb", "h100-sxm", "h200-sxm"} <= set(hardware_names())


def test_models_that_the_documentation_names_ship():
    assert {"ministral-3b", "llama-3.1-8b", "qwen3-32b", "llama-3.1-70b"} <= set(model_names())


@pytest.mark.parametrize(
    ("name", "lowest", "highest", "count"),
    [("a100-sxm4-80gb", 210, 1410, 81), ("h100-sxm", 345, 1980, 110)],
)
def test_clock_tables(name, lowest, highest, count):
    clocks = load_hardware(name).clocks_mhz
    assert (clocks[0], clocks[-1], len(clocks)) == (lowest, highest, count)
    assert {b - a for a, b in itertools.pairwise(clocks)} == {15.0}


@pytest.mark.parametrize("name", hardware_names())
def test_every_calibrated_section_says_where_it_comes_from(name):
    hardware = load_hardware(name)
    for section in ("gemm", "attention_prefill", "attention_decode", "elementwise", "collective"):
        words = getattr(hardware, section).provenance
        assert all(len(text) > 10 for text in (words.source, words.residual, words.valid))
    assert "inferred" in hardware.gemm.provenance.valid or name in {"a100-sxm4-80gb", "h100-sxm"}


def test_h200_is_h100_with_more_memory():
    h100, h200 = load_hardware("h100-sxm"), load_hardware("h200-sxm")
    assert h200.memory_bandwidth == pytest.approx(4.8e12)
    assert h200.memory_bytes > h100.memory_bytes
    assert h200.gemm.efficiency == h100.gemm.efficiency


def test_bandwidth_falls_below_the_knee_only():
    hardware = load_hardware("a100-sxm4-80gb")
    assert hardware.bandwidth_share(1410) == hardware.bandwidth_share(1005) == 1.0
    assert hardware.bandwidth_share(900) == pytest.approx(0.74 / 0.82, rel=0.01)
    assert hardware.bandwidth_share(510) == pytest.approx(0.53 / 0.82, rel=0.01)


@pytest.mark.parametrize(
    ("load", "kind"), [(load_hardware, "hardware"), (load_model, "model")], ids=["board", "model"]
)
def test_unknown_name_lists_the_known_ones(load, kind):
    with pytest.raises(UnknownNameError, match=f"unknown {kind} 'nothing'.*Choose one of: "):
        load("nothing")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'h100-sxm'\?"):
        load_hardware("h100-smx")


def test_profile_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nlayers = 2\nhidden_size = 64\nheads = 4\nkv_heads = 2\n'
        "head_dim = 16\nintermediate_size = 128\nvocab_size = 100\n"
    )
    assert load_model(path).parameters == 2 * (64 * 16 * 12 + 3 * 64 * 128) + 2 * 100 * 64


def test_unknown_key_in_a_profile_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nlayer = 2\n')
    with pytest.raises(ProfileError, match=r"mine\.toml: .*layer"):
        load_model(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("request_s", "inf"),
        ("memory_bandwidth", "inf"),
        ("tdp_w", "nan"),
        ("settle_s", "inf"),
        ("decode_exponent", "nan"),
    ],
)
def test_a_board_has_finite_numbers_only(key, value, tmp_path):
    text = (resources.files("voltana.plant") / "data/hardware/h100-sxm.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
    section = {"request_s": "[host]", "settle_s": "[clocks]", "decode_exponent": "[uncertainty]"}
    at = lines.index(section[key]) + 1 if key in section else 1
    path = tmp_path / "mine.toml"
    path.write_text("\n".join([*lines[:at], f"{key} = {value}", *lines[at:]]))
    with pytest.raises(ProfileError, match=rf"mine\.toml: .*{key}.*finite|{key}.*greater"):
        load_hardware(path)


def test_broken_toml_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("name = \n")
    with pytest.raises(ProfileError, match=r"mine\.toml is not TOML"):
        load_hardware(path)


@pytest.mark.parametrize("load", [load_hardware, load_model])
def test_a_profile_that_is_no_text_is_named(tmp_path, load):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match=r"mine\.toml cannot be read: .* TOML file in UTF-8"):
        load(path)


def test_shipped_llama_equals_its_hf_config():
    shipped = load_model("llama-3.1-8b")
    assert ModelProfile.from_hf_config(LLAMA_3_1_8B, name=shipped.name) == shipped
    assert shipped.parameters == pytest.approx(8.03e9, rel=0.01)
    assert shipped.weight_bytes == 2 * shipped.parameters
    assert shipped.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("qwen3-32b", 32.8e9), ("llama-3.1-70b", 70.6e9), ("ministral-3b", 3.3e9)],
)
def test_parameter_counts(name, parameters):
    assert load_model(name).parameters == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize(
    ("source", "parameters", "active"),
    [
        (MIXTRAL_8X7B, 46.7e9, 12.8e9),
        (QWEN3_30B_A3B, 30.5e9, 3.0e9),
        (DEEPSEEK_MOE_16B, 16.4e9, 2.6e9),
        (DEEPSEEK_V3, 671e9, 37e9),
    ],
    ids=["mixtral", "qwen3-moe", "deepseek-moe", "deepseek-v3"],
)
def test_mixture_of_experts(source, parameters, active):
    model = ModelProfile.from_hf_config(source)
    assert model.parameters == pytest.approx(parameters, rel=0.02)
    assert model.active_parameters == pytest.approx(active, rel=0.06)


def test_latent_attention_caches_one_vector_a_token():
    model = ModelProfile.from_hf_config(DEEPSEEK_V3)
    assert model.kv_bytes_per_token == 61 * (512 + 64) * 2
    load = Load.decode(16, 16 * 4000)
    latency = LatencyModel(load_hardware("h200-sxm"), model, 8).latency_s(load, 1980)
    assert 0.005 < latency < 0.05


def test_missing_width_of_latent_attention_is_named():
    with pytest.raises(ProfileError, match="lacks 'v_head_dim'"):
        ModelProfile.from_hf_config(config(DEEPSEEK_V3, v_head_dim=None))


def test_config_without_grouped_heads_has_as_many_kv_heads():
    model = ModelProfile.from_hf_config(config(LLAMA_3_1_8B, num_key_value_heads=None))
    assert model.kv_heads == model.heads


def test_config_of_a_multimodal_model_is_read_below_text_config():
    model = ModelProfile.from_hf_config({"text_config": LLAMA_3_1_8B, "model_type": "mistral3"})
    assert model.layers == 32


def test_quantised_config_halves_the_weights_of_the_layers():
    quantised = config(LLAMA_3_1_8B, quantization_config={"quant_method": "fp8"})
    fp8, bf16 = map(ModelProfile.from_hf_config, (quantised, LLAMA_3_1_8B))
    embeddings_bytes = 2 * 2 * fp8.vocab_size * fp8.hidden_size  # engines leave both in bf16
    halved, whole = (each.weight_bytes - embeddings_bytes for each in (fp8, bf16))
    assert 2 * halved == whole


def test_unsupported_quantisation_is_refused():
    quantised = config(LLAMA_3_1_8B, quantization_config={"quant_method": "awq"})
    with pytest.raises(ProfileError, match=r"quant_method 'awq'.*fp8"):
        ModelProfile.from_hf_config(quantised)


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"]
)
def test_missing_key_of_a_config_is_named(key):
    with pytest.raises(ProfileError, match=rf"config\.json lacks '{key}'"):
        ModelProfile.from_hf_config(config(LLAMA_3_1_8B, **{key: None}))


def test_missing_number_of_active_experts_is_named():
    with pytest.raises(ProfileError, match=r"config\.json lacks 'num_experts_per_tok'"):
        ModelProfile.from_hf_config(config(MIXTRAL_8X7B, num_experts_per_tok=None))


def test_config_from_a_path(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_3_1_8B))
    assert load_model(path).layers == 32


def test_config_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(ProfileError, match=r"config\.json cannot be read"):
        load_model(path)


def test_absent_config_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"absent\.json.*cannot be read"):
        load_model(tmp_path / "absent.json")
