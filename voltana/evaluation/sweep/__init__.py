"""Many scenarios run in parallel, each once, whatever kills the program in between.

`make_plan` lays a grid or a list over a scenario; `run_sweep` runs what a folder does not hold yet,
on `LocalWorkers` or any other `Workers`. `voltana.evaluation.sweep.table` keeps results as Parquet.
"""

from voltana.evaluation.sweep.local import LocalWorkers
from voltana.evaluation.sweep.plan import Plan, Point, make_plan
from voltana.evaluation.sweep.run import SweepOutcome, run_sweep
from voltana.evaluation.sweep.work import Outcome, Task, Workers

__all__ = [
    "LocalWorkers",
    "Outcome",
    "Plan",
    "Point",
    "SweepOutcome",
    "Task",
    "Workers",
    "make_plan",
    "run_sweep",
]
