"""Components that break one promise each, and the check that has to notice.

`BROKEN` maps the kind of component to pairs of (name of the check, factory).
"""

from __future__ import annotations

from tests.broken import actuators, controllers, level_sets, power, predictors, routers

BROKEN = {
    "predictor": predictors.BROKEN,
    "power": power.BROKEN,
    "controller": controllers.BROKEN,
    "router": routers.BROKEN,
    "actuator": actuators.BROKEN,
    "level set": level_sets.BROKEN,
}
