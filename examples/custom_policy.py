"""A policy of one's own: to the fastest clock when late, one step down while there is slack.

Run it beside the named ones, from this folder:

    voltana simulate --policy static-max --policy voltana --policy custom_policy:Creep

The class needs no base class: `decide` is all that a controller is. The simulator calls the class
once for every instance. Run as a script, this file asks the check suite whether it behaves.
"""

from voltana.levels import A100_CLOCKS_MHZ
from voltana.policy import InstanceContext
from voltana.slo import Slo
from voltana.testing import check_controller
from voltana.values import Decision, Observation, Role


class Creep:
    """Feedback from the last iteration alone: no model, no promise."""

    def __init__(self, context: InstanceContext) -> None:
        fastest = context.table_mhz[-1]
        self.clocks = [mhz for mhz in context.table_mhz if mhz >= 0.6 * fastest]
        self.limit_s = 0.8 * context.slo.itl_s
        self.level = len(self.clocks) - 1

    def decide(self, observation: Observation) -> Decision:
        """Up at once, down slowly."""
        late = observation.queue.requests > 0 or observation.last_latency_s > self.limit_s
        self.level = len(self.clocks) - 1 if late else max(self.level - 1, 0)
        reason = "late: fastest" if late else "slack: one step down"
        return Decision(clock_mhz=self.clocks[self.level], reason=reason)


if __name__ == "__main__":
    context = InstanceContext(
        instance="decode-0",
        role=Role.DECODE,
        table_mhz=A100_CLOCKS_MHZ,
        slo=Slo(ttft_s=0.6, itl_s=0.05),
    )
    report = check_controller(lambda: Creep(context))
    print(report)
    report.raise_if_failed()
