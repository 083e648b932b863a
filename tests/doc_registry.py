"""What of the documentation's examples the tests do not run where they stand, and why.

Everything else is run by ``tests/test_doc_examples.py``, page by page and in its order.
"""

from __future__ import annotations

NOT_RUN: dict[str, str] = {
    r"make [a-z-]+": "a target of the Makefile, which the test looks for there",
    r"python -m (benchmarks|tests|tools)\.[\w.]+": "takes minutes, or a GPU; the module is there",
    r"(\S*/)?pip install ": "installs; `make packages` installs all distributions and runs them",
    r"(sudo )?python3 -m venv ": "makes an environment; `make packages` does",
    r"source ": "is for the shell of whoever types",
    r"sudo ": "needs root on a host of one's own; tests/test_packaging.py holds it to the unit",
    r"voltana-actuatord ": "needs a driver; tests/actuation/test_cli.py runs it on the fake one",
    r"voltana actuator ": "needs a daemon; tests/actuation/test_cli.py runs it beside one",
    r"voltana top$": "needs an agent; tests/test_cli_top.py shows answers of some",
    r"voltana analyze ": "takes a minute; tests/test_cli_analyze.py runs it in small",
    r"voltana rehearse ": "takes minutes in real time; tests/test_rehearse_cli.py is a short one",
    r"voltana reproduce ": "takes minutes; tests/test_reproduce.py runs findings in small",
    r"voltana sweep .*--ray ": "needs a Ray cluster; tests/test_sweep_ray.py starts one",
    r"voltana simulate .*best-fixed": "a search of many runs; tests/test_best_fixed.py makes one",
    r"voltana plan ": "a search of many runs; tests/test_provision.py makes one",
    r"voltana simulate --rates ": "a day; tests/test_workload_client_rates.py reads rates",
    r"vllm serve ": "is vLLM's: `make test-vllm` starts servers so",
    r"voltana-vllm ": "needs vLLM servers: `make test-vllm`",
    r"voltana-sglang (agent|launch|profile|router|steer)": "needs servers: `make test-sglang`",
    r"([A-Z_]+=\S+ )*python -m (sglang|smg)\.": "is SGLang's: `make test-sglang` starts servers so",
    r"(curl|put) ": "speaks to servers: integrations/sglang/tests has requests like these",
    r"put\(\) ": "a function of the shell for the lines after it",
    r"export ": "is for the shell of whoever types",
}
"""Beginnings of commands, as regular expressions, and why they are not run."""

ELSEWHERE: dict[str, str] = {
    "docs/actuation.md": "tests/actuation/test_with_loop.py",
    "docs/analysis.md": "tests/test_analysis_docs.py",
    "docs/gym.md": "tests/test_gym_env.py",
    "docs/policies.md": "tests/test_policies.py",
    "docs/predictors.md": "tests/test_predictor_docs.py",
    "docs/sweep.md": "tests/test_sweep.py",
    "docs/testing.md": "tests/test_testing_docs.py",
    "docs/workloads.md": "tests/test_workload_generate.py",
}
"""Pages whose Python is run, and looked at more closely, by a test of their own."""

SHORTER: tuple[tuple[str, str], ...] = (
    (r"40\.\.100\.\.10|40\.\.80\.\.10|30,50", "60"),
    (r"11\.\.13|seed=1,2", "seed=11"),
    (r"seed=seed", "seed"),
    (r"pd=1:3,2:2,3:1", "pd=1:3,2:2"),
    (r"duration=10", "duration=1"),
    (r" --workers 8", ""),
)
"""What stands for what in a sweep, so that it takes a second; flags stay as they are shown."""

FEWER: dict[str, list[str]] = {
    "bound": ["--duration", "4"],
    "check": ["--programs", "3"],
    "simulate": ["--duration", "2"],
}
"""Flags that are given besides, so that a command takes a second or two."""

FILES: dict[str, str] = {
    "mine.py": (
        "from voltana.controllers import FixedClock\n"
        "from voltana.predictors import EcoPred\n"
        "from voltana.values import Decision\n\n\n"
        "def make(context):\n    return FixedClock(context.table_mhz[-1])\n\n\n"
        "def make_model(context):\n    return EcoPred.from_datasheet(context.datasheet)\n\n\n"
        "class Creep:\n"
        "    def __init__(self, context):\n        self.clocks = context.table_mhz\n\n"
        "    def decide(self, observation):\n"
        "        return Decision(clock_mhz=self.clocks[-1], reason='fastest')\n"
    ),
    "base.toml": 'policies = ["static-max"]\n[workload]\nrate_rps = 20.0\nduration_s = 1.0\n',
    "runs.csv": "rate,seed\n20,1\n",
    "requests.csv": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:47.78,396,20\n"
    ),
    "intensity.csv": "0,380\n1,300\n",
    "budget.toml": "[[step]]\nat_s = 0\nwatts = 1200\n[[step]]\nat_s = 1\nwatts = 800\n",
}
"""Files that the pages take to be there, beside those that they show."""
