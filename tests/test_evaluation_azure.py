"""A recorded hour, end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOUR = (
    Path(__file__).parents[2]
    / "shared/data/azure-llm-2023/AzureLLMInferenceTrace_conv.csv.gz"
)  # fmt: skip
BOARDS, IDLE_W, LIMIT_W = 4, 40, 400


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not HOUR.exists(), reason="the measurements in ../shared/data are absent")
def test_the_azure_hour_is_served_whole() -> None:
    command = ["simulate", "--trace", str(HOUR), "--trace-format", "azure", "--json", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "voltana", *command, "--policy", "static-max,static-low"],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    fastest, slow = json.loads(done.stdout)["results"]
    for result in (fastest, slow):
        assert result["requests_completed"] == result["requests_offered"] == 19_366
        assert 3500 < result["simulated_s"] < 3600
        power_w = result["energy_j"] / result["simulated_s"]
        assert BOARDS * IDLE_W < power_w < BOARDS * LIMIT_W
    assert slow["energy_saved_vs_static_max"] > 0
    assert slow["ttft_p50_s"] > fastest["ttft_p50_s"]
