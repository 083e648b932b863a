"""``voltana-sglang profile`` against real servers."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from servers import ServerSpec
from voltana.predictors.ecopred import EcoPred
from voltana.values import Load

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Fleet

TAKES_AT_MOST_S = 180.0
HELD_BACK = re.compile(
    r"(?P<phase>\w+): MAE (?P<mae>[\d.]+) ms .* mean predictor (?P<mean>[\d.]+) ms"
)


@pytest.mark.parametrize("role", ["unified", "decode"])
def test_a_profile_beats_the_mean_and_starts_a_predictor(
    role: str, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("profile")
    config = folder / "voltana.toml"
    config.write_text('[agent]\nrings = "rings"\n')
    environment = (
        ("VOLTANA_SGLANG_CONFIG", str(config)),
        ("VOLTANA_SGLANG_INSTANCE", "profiled"),
    )
    (server,) = fleet.get(ServerSpec(name=f"profiled-{role}", role=role, environment=environment))
    out, started_s = folder / "profile.json", time.monotonic()
    command = [sys.executable, "-m", "voltana_sglang", "profile", server.url]
    options = ["--instance", "profiled", "--out", str(out), "--config", str(config)]
    done = subprocess.run(
        [*command, *options, "--clock", "1410"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert time.monotonic() - started_s < TAKES_AT_MOST_S
    errors = {match["phase"]: match for match in HELD_BACK.finditer(done.stdout)}
    assert set(errors) == ({"decode"} if role == "decode" else {"decode", "prefill"})
    for match in errors.values():
        assert float(match["mae"]) < float(match["mean"]), done.stdout
    _starts_a_predictor(out)


def _starts_a_predictor(profile: Path) -> None:
    predictor = EcoPred.from_profile(profile)
    small, large = (
        predictor.forecast(load, np.array([1410.0]))
        for load in (Load.decode(1, 100), Load.decode(32, 6000))
    )
    assert 0 < small.mean_s[0] < large.mean_s[0] < np.inf
    assert np.isfinite(large.upper_s[0])
