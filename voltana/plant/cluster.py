"""What is simulated: a cluster of instances, and how its engine behaves."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from voltana.cluster.context import EngineLimits
from voltana.cluster.renewed import SNAPSHOT_S
from voltana.errors import invalid, unknown_name
from voltana.layout import check_layout
from voltana.values import Role

if TYPE_CHECKING:
    from voltana.errors import ConfigError
    from voltana.plant.disturbance import Disturbance
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.model import ModelProfile
    from voltana.slo import Slo


Binding = Literal["early", "late"]
"""When the decode instance of a request is chosen: with its prefill instance, or after that."""


LEAST_PERIOD_S = 1e-3
"""Of what an engine does again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the serving engine and its sensors behave; defaults are those of SGLang where it has any.

    Attributes:
        max_prefill_tokens: Prompt tokens of one prefill iteration; a longer prompt is chunked
            (``--chunked-prefill-size``).
        max_running_requests: Requests of one decode batch.
        memory_fraction: Share of the devices' memory for weights and KV cache
            (``--mem-fraction-static``).
        reserved_decode_tokens: Room that admission keeps for the growth of each running request
            (``--num-reserved-decode-tokens``).
        transfer: Whether the KV cache takes time to move from prefill to decode.
        latency_noise: Relative standard deviation of an iteration's latency.
        sensor_noise: Relative standard deviation of a power reading.
        energy_tick_s: Period at which the energy counter moves.
        energy_window_s: Period at which power predictors are taught.
        idle_tick_s: Period of control steps while an instance idles.
        snapshot_period_s: Age at which routers get a new predictor snapshot; as beside engines.
        settle_s: Settling time of a clock change after the call; None takes the hardware's.
        prefix_cache: Whether prefill and colocated instances keep prompts, where a trace says what
            they share (``--disable-radix-cache`` does not).
        page_tokens: Tokens of a page of the KV cache (``--page-size``).
        mixed_chunk: Whether requests of colocated instances decode beside prompts
            (``--enable-mixed-chunk``); else prompts go first.
        binding: When the decode instance is chosen: ``early`` with the prefill instance, as SGLang
            needs it, or ``late`` when the prompt is computed, as vLLM's pairs allow. With ``late``
            prompts wait where the caches that are held leave them no room.

    Raises:
        ConfigError: If `binding` is neither, or a period is shorter than `LEAST_PERIOD_S`.
    """

    max_prefill_tokens: int = 8192
    max_running_requests: int = 2048
    memory_fraction: float = 0.88
    reserved_decode_tokens: int = 512
    transfer: bool = True
    latency_noise: float = 0.03
    sensor_noise: float = 0.02
    energy_tick_s: float = 0.05
    energy_window_s: float = 1.0
    idle_tick_s: float = 0.2
    snapshot_period_s: float = SNAPSHOT_S
    settle_s: float | None = None
    prefix_cache: bool = True
    page_tokens: int = 1
    mixed_chunk: bool = False
    binding: Binding = "early"

    def __post_init__(self) -> None:
        allowed = get_args(Binding)
        if self.binding not in allowed:
            raise invalid(
                "engine.binding",
                self.binding,
                " or ".join(allowed),
                "Give --binding early or late.",
            )
        for name in ("idle_tick_s", "energy_tick_s", "energy_window_s", "snapshot_period_s"):
            if not getattr(self, name) >= LEAST_PERIOD_S:
                raise invalid(
                    f"engine.{name}",
                    getattr(self, name),
                    f"at least {LEAST_PERIOD_S:g} s",
                    "Shorter ones are an event each, and the run would not end.",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A cluster to simulate.

    Attributes:
        hardware: The boards.
        model: The model served.
        slo: The promises made.
        tensor_parallel: Boards of one instance.
        prefill: Number of prefill instances.
        decode: Number of decode instances.
        colocated: Number of instances that serve both phases; alone, or beside the others.
        engine: How the engine behaves.
        disturbances: What goes wrong in mid-run.

    Raises:
        ConfigError: If there is no instance of a kind, a disturbance is of an unknown one, the
            weights leave no room for KV cache, the engine is told to compute or keep free more than
            that holds, or late binding is asked for where nothing is bound.
    """

    hardware: HardwareProfile
    model: ModelProfile
    slo: Slo
    tensor_parallel: int = 1
    prefill: int = 2
    decode: int = 2
    colocated: int = 0
    engine: EngineOptions = field(default_factory=EngineOptions)
    disturbances: tuple[Disturbance, ...] = ()

    def __post_init__(self) -> None:
        check_layout(prefill=self.prefill, decode=self.decode, colocated=self.colocated)
        if self.tensor_parallel < 1:
            raise invalid(
                "tensor_parallel", self.tensor_parallel, "at least 1", "Give --tp 1 or more."
            )
        alone = not self.prefill  # colocated instances: the layout is one that can serve
        if alone and self.engine.binding == "late":
            raise invalid(
                "engine.binding",
                self.engine.binding,
                "early where every instance serves both phases, for no decode instance is chosen",
                "Leave --binding out, or name pairs: --prefill and --decode.",
            )
        names = [name for role in Role for name in self.instance_names(role)]
        for disturbance in self.disturbances:
            if disturbance.instance not in names:
                raise unknown_name("instance of a disturbance", disturbance.instance, names)
        if self.engine.page_tokens > self.engine.max_prefill_tokens:
            raise invalid(
                "engine.page_tokens",
                self.engine.page_tokens,
                f"at most max_prefill_tokens, {self.engine.max_prefill_tokens}, or no page is ever "
                "full",
                "SGLang's default is 1.",
            )
        if self.kv_capacity_tokens < self.engine.max_prefill_tokens:
            raise self._too_small()
        reserved, paired = self.engine.reserved_decode_tokens, self.decode > 0
        if paired and not reserved < self.kv_capacity_tokens:
            raise invalid(
                "engine.reserved_decode_tokens",
                reserved,
                f"below the {self.kv_capacity_tokens} tokens of the KV cache, or no request has "
                "room beside another",
                "SGLang's default is 512.",
            )

    def _too_small(self) -> ConfigError:
        """What is to blame for a KV cache that does not hold the prompts of an iteration."""
        usual, engine = EngineOptions(), self.engine
        batch = min(engine.max_prefill_tokens, usual.max_prefill_tokens)
        if self.kv_capacity_tokens >= batch:
            return invalid(
                "engine.max_prefill_tokens",
                engine.max_prefill_tokens,
                f"at most the {self.kv_capacity_tokens} tokens of the KV cache",
                f"The default is {usual.max_prefill_tokens}.",
            )
        needed = self._kv_bytes(batch) + self.model.weight_bytes
        share = needed / (self.hardware.memory_bytes * self.tensor_parallel)
        weights = f"{self.model.name}: its weights of {self.model.weight_bytes / 1e9:.0f} GB"
        if engine.memory_fraction < share <= usual.memory_fraction:
            return invalid(
                "engine.memory_fraction",
                engine.memory_fraction,
                f"at least {math.ceil(1e3 * share) / 1e3:g} for {weights} and the prompts of an "
                "iteration leave no room for KV cache else",
                f"The default is {usual.memory_fraction:g}.",
            )
        return invalid(
            "tensor_parallel",
            self.tensor_parallel,
            f"enough for {weights} leave no room for KV cache on {self.tensor_parallel} x "
            f"{self.hardware.name}",
            "Use more devices an instance, or a smaller model.",
        )

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens that the KV cache of one instance can hold.

        What several of its boards hold alike counts once for each of them.
        """
        memory = self.hardware.memory_bytes * self.tensor_parallel * self.engine.memory_fraction
        return int((memory - self.model.weight_bytes) / self._kv_bytes(1))

    def _kv_bytes(self, tokens: int) -> float:
        """Memory of so many tokens, on all boards of an instance."""
        return tokens * self.model.kv_copies(self.tensor_parallel) * self.model.kv_bytes_per_token

    @property
    def limits(self) -> EngineLimits:
        """What the engine of one instance takes at once."""
        engine = self.engine
        return EngineLimits(
            max_batch_tokens=engine.max_prefill_tokens,
            max_running_requests=engine.max_running_requests,
            kv_capacity_tokens=self.kv_capacity_tokens,
            kv_reserved_tokens=engine.reserved_decode_tokens,
        )

    def limits_of(self, role: Role) -> EngineLimits:
        """The same, of an instance of a role.

        Only the admission to a decode instance keeps room for each request; where one engine serves
        both phases it is the rest of its last page, as the hooks of SGLang say of such a server.
        """
        if role is not Role.COLOCATED:
            return self.limits
        return dataclasses.replace(
            self.limits,
            kv_reserved_tokens=self.engine.page_tokens - 1,
            prompts_first=not self.engine.mixed_chunk,
        )

    def datasheet(self) -> dict[str, float]:
        """Published numbers of one instance, from which a physical prior can be built.

        No calibrated coefficient of the plant is among them. Keys as in
        `voltana.predictors.ecopred.Datasheet`.
        """
        hardware, model = self.hardware, self.model
        moe = model.experts
        experts = (
            {}
            if moe is None
            else {
                "expert_share": moe.per_token / moe.count,
                "expert_bytes": model.expert_bytes,
            }
        )
        return {
            **experts,
            "peak_flops": hardware.peak_flops["bf16"] * self.tensor_parallel,
            "memory_bandwidth_bytes_per_s": hardware.memory_bandwidth * self.tensor_parallel,
            "max_clock_mhz": hardware.clocks_mhz[-1],
            "tensor_parallel": self.tensor_parallel,
            "weight_bytes": model.weight_bytes,
            "active_parameters": model.active_parameters,
            "kv_bytes_per_token": model.kv_bytes_per_token,
            "layers": model.layers,
            "hidden_size": model.hidden_size,
            "attention_width": model.heads * model.head_dim,
        }

    def instance_names(self, role: Role) -> tuple[str, ...]:
        """Names of the instances of a role, such as ``prefill-0``."""
        count: int = getattr(self, role.value)
        return tuple(f"{role.value}-{index}" for index in range(count))

    @property
    def instances(self) -> int:
        """Number of all instances."""
        return self.prefill + self.decode + self.colocated

    def counted(self, joined: str = " + ") -> str:
        """The instances of each role that there are, such as ``2 prefill + 2 decode``."""
        counts = ((getattr(self, role.value), role.value) for role in Role)
        return joined.join(f"{count} {role}" for count, role in counts if count)

    def short(self) -> str:
        """The same for labels, such as ``2P2D`` or ``4C``."""
        pairs = f"{self.prefill}P{self.decode}D" if self.prefill else ""
        return pairs + (f"{self.colocated}C" if self.colocated else "")
