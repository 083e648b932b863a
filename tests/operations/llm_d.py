"""What llm-d-router accepts as an EndpointPickerConfig, as far as it is published; nothing more.

Written from the public sources of github.com/llm-d/llm-d-router, for what is used here: the
configuration's types (apix/config/v1alpha1/endpointpickerconfig_types.go, 04433592), which are
decoded strictly, as are the parameters of plugins (pkg/epp/config/loader/configloader.go,
03fdf919); the parameters of ``metrics-data-source`` (datasource.go, 0d4a9c10),
``core-metrics-extractor`` (factories.go, 08cbacc8; spec.go, 45c38549; mapping.go, 066a4d38) and
``endpoint-attribute-scorer`` (its README and endpointattribute.go, 6a50d626, 2b0e7579); the plugins
of pairs by the sample deploy/config/pd-epp-config.yaml (e068babb). No code of theirs is here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^{}]*)\})?")
_MATCHER = re.compile(r'\s*(\w+)\s*=\s*"?([^",}\s]+)"?\s*')


class Strict(BaseModel):
    """A table of which every field is known; values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Plugin(Strict):
    type: Annotated[str, Field(min_length=1)]
    name: str = ""
    parameters: dict[str, Any] = {}


class ProfilePlugin(Strict):
    plugin_ref: str
    weight: Annotated[int | float, Field(gt=0)] | None = None


class Profile(Strict):
    name: Annotated[str, Field(min_length=1)]
    plugins: Annotated[list[ProfilePlugin], Field(min_length=1)]


class Ref(Strict):
    plugin_ref: str


class Source(Strict):
    plugin_ref: str
    extractors: list[Ref]


class DataLayer(Strict):
    inject_defaults: bool | None = None
    sources: list[Source] = []


class CustomMetric(Strict):
    attribute_key: Annotated[str, Field(min_length=1, pattern="^[^/]+$")]
    metric_spec: str

    @model_validator(mode="after")
    def _selects(self) -> CustomMetric:
        selected(self.metric_spec)
        return self


class EngineConfig(Strict):
    name: Annotated[str, Field(min_length=1)]
    custom_metrics: list[CustomMetric] = []


class ExtractorParameters(Strict):
    engine_label_key: str = "llm-d.ai/engine-type"
    default_engine: str = "vllm"
    engine_configs: list[EngineConfig] = []

    @model_validator(mode="after")
    def _whole(self) -> ExtractorParameters:
        own = {engine.name for engine in self.engine_configs}
        if self.default_engine not in own | {"vllm", "sglang"}:
            raise ValueError(f"defaultEngine {self.default_engine!r} is in no engineConfigs")
        for engine in self.engine_configs:
            keys = [metric.attribute_key for metric in engine.custom_metrics]
            if len(set(keys)) < len(keys):
                raise ValueError(f"attributeKey stands twice in {keys}")
        return self


class SourceParameters(Strict):
    scheme: Literal["http", "https"] = "http"
    path: str = "/metrics"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    interval: str = ""


class FixedRange(Strict):
    min: int | float
    max: int | float

    @model_validator(mode="after")
    def _rises(self) -> FixedRange:
        if not self.min < self.max:
            raise ValueError("min must be below max")
        return self


class Normalization(Strict):
    fixed_range: FixedRange | None = None
    adaptive_range: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Normalization:
        if self.fixed_range is not None and self.adaptive_range is not None:
            raise ValueError("at most one normalization")
        return self


class Algorithm(Strict):
    type: Literal["linear_lower_is_better", "linear_higher_is_better"]
    normalization: Normalization = Normalization()


class ScorerParameters(Strict):
    attribute_key: Annotated[str, Field(min_length=1)]
    algorithm: Algorithm


class DeciderParameters(Strict):
    non_cached_tokens: Annotated[int, Field(ge=0)]


class Deciders(Strict):
    prefill: str


class PairsParameters(Strict):
    deciders: Deciders


class NoParameters(Strict):
    """Plugins that are used without any."""


PARAMETERS: dict[str, type[Strict]] = {
    "metrics-data-source": SourceParameters,
    "core-metrics-extractor": ExtractorParameters,
    "endpoint-attribute-scorer": ScorerParameters,
    "disagg-profile-handler": PairsParameters,
    "prefix-based-pd-decider": DeciderParameters,
    **dict.fromkeys(
        (
            "approx-prefix-cache-producer", "decode-filter", "max-score-picker", "prefill-filter",
            "queue-scorer", "single-profile-handler",
        ),
        NoParameters,
    ),
}  # fmt: skip
HANDLERS = {"single-profile-handler", "disagg-profile-handler"}


class EndpointPickerConfig(Strict):
    """The whole file."""

    api_version: Literal["llm-d.ai/v1alpha1"]
    kind: Literal["EndpointPickerConfig"]
    plugins: list[Plugin]
    scheduling_profiles: Annotated[list[Profile], Field(min_length=1)]
    data_layer: DataLayer | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> EndpointPickerConfig:
        names = [plugin.name or plugin.type for plugin in self.plugins]
        if len(set(names)) < len(names):
            raise ValueError(f"a plugin's name stands twice in {names}")
        for plugin in self.plugins:
            if plugin.type not in PARAMETERS:
                raise ValueError(f"plugin type {plugin.type!r} is unknown here")
            PARAMETERS[plugin.type].model_validate(plugin.parameters)
        for ref in self._refs():
            if ref not in names:
                raise ValueError(f"pluginRef {ref!r} names no plugin")
        handlers = [plugin.type for plugin in self.plugins if plugin.type in HANDLERS]
        if len(handlers) != 1:
            raise ValueError(f"profile handlers {handlers}: must be one")
        if handlers == ["single-profile-handler"] and len(self.scheduling_profiles) > 1:
            raise ValueError("single-profile-handler with several profiles")
        return self

    def _refs(self) -> list[str]:
        refs = [one.plugin_ref for profile in self.scheduling_profiles for one in profile.plugins]
        for source in self.data_layer.sources if self.data_layer else ():
            refs += [source.plugin_ref, *(one.plugin_ref for one in source.extractors)]
        for plugin in self.plugins:
            if plugin.type == "disagg-profile-handler":
                refs.append(PairsParameters.model_validate(plugin.parameters).deciders.prefill)
        return refs

    def named(self, name: str) -> Any:
        """The parameters of a plugin."""
        (found,) = [p for p in self.plugins if (p.name or p.type) == name]
        return PARAMETERS[found.type].model_validate(found.parameters)


def selected(spec: str) -> tuple[str, dict[str, str]]:
    """A metric's name and the labels that it must have.

    Raises:
        ValueError: If it is no selector by equality.
    """
    found = SELECTOR.fullmatch(spec)
    if found is None:
        raise ValueError(f"{spec!r} selects no metric")
    labels: dict[str, str] = {}
    for part in filter(None, (found[2] or "").split(",")):
        matcher = _MATCHER.fullmatch(part)
        if matcher is None:
            raise ValueError(f"{part!r} in {spec!r} matches by something else than equality")
        labels[matcher[1]] = matcher[2]
    return found[1], labels


def scores(values: dict[str, float | None], parameters: ScorerParameters) -> dict[str, float]:
    """How the scorer ranks endpoints by an attribute, as its README says: 1 is best.

    Args:
        values: By endpoint; None where one lacks the attribute.
        parameters: The scorer's.
    """
    known = [value for value in values.values() if value is not None]
    fixed = parameters.algorithm.normalization.fixed_range
    least, most = (fixed.min, fixed.max) if fixed else (min(known), max(known))

    def score(value: float | None) -> float:
        if value is None:
            return 0.0
        if most == least:
            return 1.0
        share = min(max((value - least) / (most - least), 0.0), 1.0)
        return 1.0 - share if "lower" in parameters.algorithm.type else share

    return {name: score(value) for name, value in values.items()}
