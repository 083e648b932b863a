"""The panels of the Grafana dashboard: what each shows, and the queries that it asks."""

from __future__ import annotations

from dataclasses import dataclass

PICKED = 'backend=~"$backend"'
RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        queries: Queries in PromQL, with the legend of each.
        unit: Grafana's name of the unit.
        text: What a reader should know.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    text: str = ""


ROWS: dict[str, tuple[Panel, ...]] = {
    "Promises": (
        Panel(
            title="Error budget: times faster than allowed",
            queries=(
                ("voltana:slo_burn:rate5m", "{{threshold}}, 5 min"),
                ("voltana:slo_burn:rate1h", "{{threshold}}, 1 h"),
            ),
            text="Pages at 14.4 over an hour and five minutes (VoltanaSloBurnFast).",
        ),
        Panel(
            title="Time to first token, by the router",
            queries=tuple(
                (
                    f"histogram_quantile({q}, sum by (le) "
                    f"(rate(voltana_router_first_token_seconds_bucket{RATE})))",
                    f"p{100 * q:g}",
                )
                for q in (0.5, 0.95, 0.99)
            ),
            unit="s",
        ),
        Panel(
            title="Share of recent tokens and prompts that kept their threshold",
            queries=((f"voltana_agent_attainment_ratio{{{PICKED}}}", "{{backend}}"),),
            unit="percentunit",
        ),
        Panel(
            title="Decisions by what they promised",
            queries=(
                (
                    f"sum by (status) (rate(voltana_agent_decisions_total{{{PICKED}}}{RATE}))",
                    "{{status}}",
                ),
            ),
            unit="ops",
        ),
        Panel(
            title="Share of decisions that promise nothing",
            queries=(("voltana:uncertified:ratio10m", "{{backend}}"),),
            unit="percentunit",
        ),
        Panel(
            title="Misses of certified decisions, and what is proven to be possible",
            queries=(
                (f"voltana_agent_guarantee_missed_total{{{PICKED}}}", "{{backend}} missed"),
                (f"voltana_agent_guarantee_bound{{{PICKED}}}", "{{backend}} bound"),
            ),
        ),
    ),
    "Energy": (
        Panel(
            title="Power by role and source",
            queries=(
                (
                    f"sum by (role, source) (rate(voltana_agent_energy_joules_total{RATE}))",
                    "{{role}}, {{source}}",
                ),
            ),
            unit="watt",
            text="From the accounts of energy, which grow every 10 s.",
        ),
        Panel(
            title="Power of each instance now",
            queries=((f"voltana_agent_power_watts{{{PICKED}}}", "{{backend}}"),),
            unit="watt",
        ),
        Panel(
            title="Power by tenant",
            queries=(
                (
                    f"sum by (tenant) (rate(voltana_router_tenant_energy_joules_total{RATE}))",
                    "{{tenant}}",
                ),
                (
                    f"sum(rate(voltana_router_unattributed_energy_joules_total{RATE})) "
                    "or vector(0)",
                    "nobody",
                ),
            ),
            unit="watt",
            text="An account by shares (docs/metrics.md), named by clients: not for billing as is.",
        ),
        Panel(
            title="Joules a prompt token, by tenant",
            queries=(
                (
                    f"sum by (tenant) (rate(voltana_router_tenant_energy_joules_total{RATE})) "
                    f"/ sum by (tenant) (rate(voltana_router_tenant_prompt_tokens_total{RATE}))",
                    "{{tenant}}",
                ),
            ),
            unit="joule",
        ),
        Panel(
            title="Estimated saving against the fastest clock",
            queries=((f"voltana_agent_saving_ratio{{{PICKED}}}", "{{backend}}"),),
            unit="percentunit",
            text="The power model's estimate; no measurement.",
        ),
        Panel(
            title="Time of which the energy is not known",
            queries=(
                (
                    f"rate(voltana_agent_energy_unknown_seconds_total{{{PICKED}}}{RATE})",
                    "{{backend}}",
                ),
            ),
            unit="percentunit",
        ),
    ),
    "Clocks": (
        Panel(
            title="SM clock, achieved and asked for",
            queries=(
                (f"voltana_agent_clock_hertz{{{PICKED}}}", "{{backend}}"),
                (f"voltana_agent_target_clock_hertz{{{PICKED}}}", "{{backend}} target"),
            ),
            unit="hertz",
        ),
        Panel(
            title="What set the clock",
            queries=(
                (
                    "sum by (constraint) "
                    f"(rate(voltana_agent_bindings_total{{{PICKED}}}{RATE})) > 0 or vector(0)",
                    "{{constraint}}",
                ),
            ),
            unit="ops",
        ),
        Panel(
            title="Whether commands take effect",
            queries=(
                (f"voltana_agent_healthy{{{PICKED}}}", "{{backend}}"),
                ("voltana_actuatord_up", "daemon of {{instance}}"),
            ),
        ),
        Panel(
            title="GPUs by what the daemon knows of their clock",
            queries=(("sum by (state) (voltana_actuatord_gpus)", "{{state}}"),),
        ),
        Panel(
            title="Marks, leases, quarantine, other tools",
            queries=(
                ("sum(voltana_actuatord_marks)", "marks"),
                ("sum(voltana_actuatord_leased_gpus)", "leased GPUs"),
                ("sum(voltana_actuatord_quarantined_gpus)", "quarantined GPUs"),
                ("sum(voltana_actuatord_foreign_clocks)", "set by other tools"),
            ),
        ),
        Panel(
            title="What becomes of leases",
            queries=(
                (
                    f"sum by (event) (rate(voltana_actuatord_lease_events_total{RATE}))",
                    "{{event}}",
                ),
                (f"sum(rate(voltana_actuatord_clock_changes_total{RATE}))", "changes of clock"),
                (f"sum(rate(voltana_actuatord_driver_failures_total{RATE}))", "driver failures"),
            ),
            unit="ops",
        ),
    ),
    "Models and measurements": (
        Panel(
            title="Error of the latency model, beside that of the mean",
            queries=(
                (
                    f"voltana_agent_prediction_mae_seconds{{{PICKED}}}",
                    "{{backend}} {{phase}}",
                ),
                (
                    f"voltana_agent_mean_predictor_mae_seconds{{{PICKED}}}",
                    "{{backend}} {{phase}}, the mean",
                ),
            ),
            unit="s",
        ),
        Panel(
            title="Iterations",
            queries=(
                (f"voltana_agent_iteration_p50_seconds{{{PICKED}}}", "{{backend}} p50"),
                (f"voltana_agent_iteration_p99_seconds{{{PICKED}}}", "{{backend}} p99"),
            ),
            unit="s",
        ),
        Panel(
            title="Records lost or torn, lines dropped, workers started",
            queries=(
                (f"sum(rate(voltana_agent_records_lost_total{{{PICKED}}}{RATE}))", "lost"),
                (f"sum(rate(voltana_agent_records_torn_total{{{PICKED}}}{RATE}))", "torn"),
                (f"sum(rate(voltana_actuatord_log_lines_dropped_total{RATE}))", "log lines"),
                (f"sum(rate(voltana_actuatord_worker_starts_total{RATE}))", "workers"),
            ),
            unit="ops",
        ),
    ),
    "Routing": (
        Panel(
            title="Requests by how they ended",
            queries=(
                (
                    f"sum by (outcome) (rate(voltana_router_requests_total{RATE}))",
                    "{{outcome}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            title="In flight and running, by server",
            queries=(
                (f"voltana_router_backend_in_flight{{{PICKED}}}", "{{backend}} in flight"),
                (f"voltana_agent_running_requests{{{PICKED}}}", "{{backend}} running"),
                (f"voltana_agent_queued_requests{{{PICKED}}}", "{{backend}} queued"),
            ),
        ),
        Panel(
            title="Servers that get requests",
            queries=((f"voltana_router_backend_available{{{PICKED}}}", "{{backend}}"),),
        ),
        Panel(
            title="What choices were planned on",
            queries=(
                (
                    f"sum by (role, source) (rate(voltana_router_choices_total{RATE})) "
                    "or vector(0)",
                    "{{role}} {{source}}",
                ),
                (
                    f"sum(rate(voltana_router_choices_without_total{RATE})) or vector(0)",
                    "without a model",
                ),
            ),
            unit="ops",
        ),
        Panel(
            title="Energy of one token more, above idling",
            queries=(
                (
                    f"voltana_agent_marginal_energy_joules{{{PICKED}}}",
                    "{{backend}} ({{token}})",
                ),
            ),
            unit="joule",
            text="By the learned models, at the clock of then; absent where none fits.",
        ),
        Panel(
            title="Head-room, and prompts whose KV caches are held",
            queries=(
                (f"voltana_agent_head_room_requests{{{PICKED}}}", "{{backend}} requests"),
                (f"voltana_router_backend_held_kv_tokens{{{PICKED}}}", "{{backend}} tokens held"),
            ),
        ),
        Panel(
            title="Held back",
            queries=(
                ("sum by (before) (voltana_router_held_requests)", "before {{before}}"),
                ("max by (before) (voltana_router_held_oldest_seconds)", "oldest, {{before}} (s)"),
            ),
        ),
        Panel(
            title="Requests that are open, and repeated",
            queries=(
                ("sum(voltana_router_open_requests)", "open"),
                (f"sum(rate(voltana_router_retries_total{RATE})) or vector(0)", "repeated/s"),
            ),
        ),
    ),
}
