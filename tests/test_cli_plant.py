"""`voltana plant`: the table, the JSON, and what wrong input says."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from voltana.cli.plant import app
from voltana.errors import ConfigError
from voltana.plant import PlantModel, load_hardware, load_model
from voltana.values import Load

HF_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def voltana(*args: object) -> str:
    result = CliRunner().invoke(app, list(map(str, args)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def points(*args: object) -> list[dict[str, float]]:
    return json.loads(voltana("show", "--json", *args))["points"]


def refusal(*args: object) -> str:
    with pytest.raises(ConfigError) as caught:
        voltana("show", *args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_json_agrees_with_python():
    (point,) = points("--batch", 64, "--context", 300, "--clock", 1005)
    plant = PlantModel(load_hardware("a100-sxm4-80gb"), load_model("llama-3.1-8b"))
    latency_s, power_w, clock_mhz = plant.iterate(Load.decode(64, 64 * 300), 1005.0)
    assert point == {
        "batch_requests": 64,
        "context_tokens": 300,
        "clock_mhz": 1005.0,
        "real_clock_mhz": clock_mhz,
        "latency_s": latency_s,
        "power_w": power_w,
        "power_per_board_w": power_w,
        "energy_per_token_j": latency_s * power_w / 64,
        "memory_fraction": pytest.approx((8.03e9 * 2 + 64 * 300 * 2**17) / (80 * 2**30), rel=0.01),
    }


def test_grid_takes_commas_and_repetition_in_the_order_given():
    grid = points("--batch", "1,8", "--batch", "4", "--context", "100,200", "--clock", "1410,900")
    assert len(grid) == 12
    assert [point["batch_requests"] for point in grid[::4]] == [1, 8, 4]
    assert [point["clock_mhz"] for point in grid[:2]] == [1410, 900]


def test_prefill_counts_prompt_tokens():
    (point,) = points("--phase", "prefill", "--batch", 2, "--context", 1000, "--clock", 1005)
    plant = PlantModel(load_hardware("a100-sxm4-80gb"), load_model("llama-3.1-8b"))
    joules = plant.energy_j(Load.prefill([(1000, 0)] * 2), 1005.0)
    assert point["energy_per_token_j"] == pytest.approx(joules / 2000)


def test_head_names_what_was_asked():
    answer = json.loads(voltana("show", "--json", "--model", "qwen3-32b", "--hardware", "h100-sxm"))
    assert {key: answer[key] for key in ("hardware", "model", "tensor_parallel", "phase")} == {
        "hardware": "h100-sxm",
        "model": "qwen3-32b",
        "tensor_parallel": 2,
        "phase": "decode",
    }
    assert answer["points"][0]["power_per_board_w"] == answer["points"][0]["power_w"] / 2


def test_level_sets_stand_for_clocks():
    clocks = [point["clock_mhz"] for point in points("--batch", 1, "--clock", "published")]
    assert clocks == [1005, 1410]
    assert len(points("--batch", 1, "--clock", "all")) == 81


def test_a_clock_between_two_supported_ones_is_answered():
    slower, between, faster = points("--batch", 8, "--clock", "1005,1011,1020")
    assert slower["latency_s"] > between["latency_s"] > faster["latency_s"]


def test_table_shows_the_power_limit():
    text = voltana("show", "--phase", "prefill", "--batch", 4, "--context", 2048)
    line = next(line for line in text.splitlines() if "2048" in line)
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    assert cells[2] == "1410"
    assert float(cells[3]) < 1400
    assert cells[5] == "400"


def test_what_is_no_measurement_is_said_beside_the_figures():
    assert "h100-sxm, inferred: power below the fastest clock" in voltana(
        "show", "--hardware", "h100-sxm", "--clock", 1005
    )
    known = json.loads(voltana("show", "--json", "--hardware", "h100-sxm"))["knowledge"]
    assert any("below the fastest clock" in fact for fact in known["inferred"])


def test_what_does_not_fit_is_said():
    text = voltana("show", "--model", "llama-3.1-70b", "--tp", 1, "--batch", 1)
    assert "Does not fit: up to 1.6" in text
    assert "Does not fit" not in voltana("show", "--model", "llama-3.1-70b", "--tp", 4)


def test_without_a_command_the_help_is_printed():
    assert "List the hardware and model profiles" in voltana()


def test_model_from_a_hugging_face_config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(HF_CONFIG))
    assert points("--model", path, "--tp", 1) == points("--model", "llama-3.1-8b", "--tp", 1)


def test_hardware_from_a_file(tmp_path):
    shipped = voltana("list")
    assert "a100-sxm4-80gb" in shipped
    from importlib.resources import files

    text = (files("voltana.plant") / "data" / "hardware" / "a100-sxm4-80gb.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("tdp_w = 400", "tdp_w = 300"))
    (point,) = points("--hardware", path, "--phase", "prefill", "--batch", 1, "--context", 4096)
    assert point["power_w"] == pytest.approx(300)


def test_list_names_every_profile():
    text = voltana("list")
    for name in ("a100-sxm4-80gb", "h100-sxm", "h200-sxm", "ministral-3b", "llama-3.1-70b"):
        assert name in text
    assert "TP 4" in text


def test_help_teaches():
    text = CliRunner().invoke(app, ["show", "--help"]).output
    assert "voltana plant show --hardware a100-sxm4-80gb --model llama-3.1-8b" in text
    assert "power limit" in text


def test_wrong_counts_are_named():
    assert refusal("--batch", "0") == (
        "--batch = '0' is not allowed: must be a whole number of at least 1. "
        "Several: separate by commas."
    )
    assert "--context = 'long' is not allowed" in refusal("--context", "long")
    assert "at least one whole number" in refusal("--batch", ",")


def test_wrong_clocks_are_named():
    assert refusal("--clock", "100") == (
        "--clock = '100' is not allowed: must be 210-1410 MHz. "
        "'--clock all' shows every clock of the board."
    )
    assert "levels = 'fast' is not allowed" in refusal("--clock", "fast")
    assert "must be 210-1410 MHz" in refusal("--clock", "nan")


def test_unknown_names_and_impossible_tp():
    assert "unknown model 'llama'" in refusal("--model", "llama")
    assert "unknown hardware 'a100'" in refusal("--hardware", "a100")
    assert "tensor_parallel = 3" in refusal("--tp", 3)


def test_unknown_phase_is_a_usage_error():
    result = CliRunner().invoke(app, ["show", "--phase", "sleep"])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit | typer.Exit)
