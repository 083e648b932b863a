"""Models and powers on the wire: they forecast the same behind it, and broken ones are errors."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from chooser_bench import LEVELS, learned

from voltana.predictors.cautious_power import CautiousPower
from voltana.predictors.conformal import BySize, ConformalSnapshot, by_phase
from voltana.predictors.linear_power import LinearPower
from voltana.predictors.tables import TablePredictor
from voltana.serving.router.routers import own_modules
from voltana.serving.router.settings import RouterTable
from voltana.serving.snapshots import (
    decode_power,
    decode_snapshot,
    encode_power,
    encode_snapshot,
)
from voltana.testing.samples import LinearSnapshot
from voltana.values import Exposure, Load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.values import FloatArray, Forecast

CLOCKS = np.array(LEVELS)
LOADS_TO_TRY = (Load.decode(16, 9000), Load.prefill([(512, 0)]), Load.prefill([(5000, 0)]))


def conformal(group: Callable[[Load], str]) -> ConformalSnapshot:
    return ConformalSnapshot(
        predictor=learned().snapshot(),
        quantiles={"decode": 0.1, "": 0.3},
        q_cert=0.5,
        widened=0.0,
        offset_s=0.001,
        group=group,
        edges_mhz=(1100.0,),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: learned().snapshot(),
        lambda: conformal(by_phase),
        lambda: conformal(BySize()),
        lambda: TablePredictor(
            clocks_mhz=CLOCKS, prefill=np.full((len(CLOCKS), 2), 0.1), decode=None
        ),
    ],
)
def test_snapshots_forecast_the_same_after_the_wire(make: Callable[[], Any]) -> None:
    snapshot = make()
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(encode_snapshot(snapshot)))
    again = decode_snapshot(wire)
    assert again is not None
    for load in LOADS_TO_TRY:
        one, other = snapshot.forecast(load, CLOCKS), again.forecast(load, CLOCKS)
        np.testing.assert_array_equal(one.mean_s, other.mean_s)
        np.testing.assert_array_equal(one.upper_s, other.upper_s)


@dataclass(frozen=True)
class OwnSnapshot:
    """A user's own."""

    scale: float

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        return LinearSnapshot(scale=self.scale).forecast(load, clocks_mhz)

    def to_dict(self) -> Mapping[str, object]:
        return {"scale": self.scale}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OwnSnapshot:
        return cls(**values)


def test_a_user_s_own_snapshot_needs_its_module_in_the_configuration() -> None:
    module = types.ModuleType("my_policy")
    module.OwnSnapshot = OwnSnapshot  # type: ignore[attr-defined]
    sys.modules["my_policy"] = module
    encoded = encode_snapshot(OwnSnapshot(2.0))
    assert encoded is not None
    encoded["kind"] = "my_policy:OwnSnapshot"
    settings = RouterTable(policy="my_policy:make")
    assert decode_snapshot(encoded, own_modules(settings)) == OwnSnapshot(2.0)
    with pytest.raises(ValueError, match="not named in this configuration"):
        decode_snapshot(encoded, own_modules(RouterTable()))
    with pytest.raises(ValueError, match="not named"):
        decode_snapshot({"kind": "os:system", "values": {}}, own_modules(settings))
    assert encode_snapshot(LinearSnapshot()) is None  # it could not be read again
    del sys.modules["my_policy"]


@pytest.mark.parametrize(
    "wrong", [{"kind": "latency", "values": {}}, {"kind": "latency"}, 5, {"kind": 1, "values": 2}]
)
def test_a_broken_snapshot_is_an_error_not_a_crash(wrong: Any) -> None:
    with pytest.raises(ValueError, match="snapshot"):
        decode_snapshot(wrong)


@pytest.mark.parametrize("inner", [LinearPower(), CautiousPower(LinearPower(), start=0.25)])
def test_power_snapshots_forecast_the_same_after_the_wire(inner: Any) -> None:
    inner.learn_window(
        2000.0, [Exposure(load=Load.decode(32, 9000), clock_mhz=1200.0, duration_s=10.0)]
    )
    snapshot = inner.snapshot()
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(encode_power(snapshot)))
    again = decode_power(wire)
    assert again is not None
    assert again.to_dict() == snapshot.to_dict()
    for load in (*LOADS_TO_TRY, Load()):
        np.testing.assert_array_equal(
            again.forecast_w(load, CLOCKS), snapshot.forecast_w(load, CLOCKS)
        )
        np.testing.assert_allclose(again.forecast_w(load, CLOCKS), inner.forecast_w(load, CLOCKS))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "linear-power", "values": {}},
        {"kind": "linear-power", "values": {"max_clock_mhz": 1.0, "coefficients": [1.0]}},
        {"kind": "cautious-power", "values": {"power": None, "excess": 0.1}},
        {"kind": "os:system", "values": {}},
        5,
    ],
)
def test_a_broken_power_snapshot_is_an_error_not_a_crash(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"power|coefficients|not named"):
        decode_power(wrong)
