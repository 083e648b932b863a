"""Imports go one way, and heavy or privileged libraries stay where they belong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import voltana

PACKAGE = Path(voltana.__file__).parent

LAYERS = (
    {"__init__", "errors", "faces", "promise", "values", "ports", "viability_account"},
    {
        "timebase",
        "levels",
        "slo",
        "slo_reserve",
        "garbage",
        "in_force",
        "layout",
        "operating",
        "planning",
        "pool",
        "prefix_cache",
        "viability",
        "user_path",
        "users_file",
        "whole_file",
        "validation",
        "extras",
    },
    {"policy", "config"},
    {"predictors", "controllers", "routers", "actuators", "testing"},
    {"loop"},
    {"policies"},
    {"cluster"},
    {"plant"},
    {"serving"},
    {"evaluation"},
    {"rehearsal"},
    {"analysis"},
    {"cli"},
    {"__main__"},
)
"""From the bottom up: a module imports from lower layers, and within its own as `SAME` allows."""

COMPONENTS = {"predictors", "controllers", "routers", "actuators"}
OFFLINE = {"evaluation", "analysis"}
TESTING_MAY_USE = {"testing", "values", "ports", "promise", "errors", "planning", "levels"}

HOMES = {
    "river": ("predictors/",),
    "control": ("analysis/",),
    "matplotlib": ("evaluation/", "analysis/", "rehearsal/plots.py"),
    "pynvml": (),
    "aiohttp": ("serving/", "rehearsal/load.py"),
    "zmq": ("serving/",),
    "prometheus_client": ("serving/",),
    "voltana_ring": ("serving/",),
    "voltana_sglang": (),
    "voltana_vllm": (),
    "hypothesis": ("testing/strategies.py",),
    "typer": ("cli/", "serving/"),
    "rich": ("cli/", "evaluation/", "analysis/", "serving/profile/", "rehearsal/report.py"),
    "gymnasium": ("plant/gym_env.py",),
    "pyarrow": ("evaluation/sweep/",),
    "pytest": (),
}
"""Where a library may be imported, as prefixes of paths in the package."""

CLOCK_READERS = {
    "plant/runner.py",  # times the policies that it runs
    "evaluation/compare.py",  # times the simulation
    "evaluation/sweep/ray_workers.py",  # gives up on a cluster that is gone
    "testing/timing.py",
    "testing/actuator_subject.py",  # waits for real devices
    "testing/actuator_checks.py",  # and gives up on those that block
    "testing/driver_checks.py",  # watches an energy counter
    "testing/driver_subject.py",  # waits for a clock to settle
    "actuators/local.py",
    "cli/actuator.py",
    "cli/top.py",
    "rehearsal/company.py",  # waits for processes
    "rehearsal/faults.py",
    "rehearsal/machine.py",
    "rehearsal/meter.py",
    "serving/event_loop.py",
    "serving/launch/child_process.py",
    "serving/launch/strays.py",
    "serving/launch/supervise.py",
    "serving/launch/warden.py",
    "serving/profile/clock.py",
    "serving/profile/command.py",
    "serving/profile/run.py",
}
"""The only files that may read a clock; everything else has its time injected."""

LAZY = {"river", "control", "matplotlib", "pyarrow", "scipy"}
"""Libraries that take so long to import that the core and the command line do without."""

CORE = [
    "voltana",
    "voltana.values",
    "voltana.ports",
    "voltana.levels",
    "voltana.slo",
    "voltana.planning",
    "voltana.policy",
    "voltana.loop",
    "voltana.testing",
]

FILES = sorted(PACKAGE.rglob("*.py"))


def own(path):
    """The part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


PARTS = sorted({own(path) for path in FILES})


def files_of(part):
    return [path for path in FILES if own(path) == part]


def part_of(module):
    """`voltana.predictors.ecopred` belongs to ``predictors``."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def layer_of(part):
    for index, layer in enumerate(LAYERS):
        if part in layer:
            return index
    raise AssertionError(f"voltana.{part} is in no layer: add it to LAYERS where it belongs")


def imports_of(path, *, types):
    """Absolute names of the modules that a file imports; those for types alone if `types`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and "TYPE_CHECKING" in ast.unparse(guard.test)
        for node in ast.walk(guard)
    }
    for node in ast.walk(tree):
        if not types and id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import, name the module in full"
            # `from voltana import levels` imports the module voltana.levels.
            whole = node.module == "voltana"
            yield from (f"voltana.{a.name}" for a in node.names) if whole else (node.module,)


def others_of(part, *, types):
    """Pairs of a module that `part` imports from elsewhere in the package, and its part."""
    for path in files_of(part):
        for module in imports_of(path, types=types):
            imported = part_of(module)
            if module.split(".")[0] == "voltana" and imported not in {part, "__version__"}:
                yield module, imported


@pytest.mark.parametrize("part", PARTS)
def test_imports_go_one_way(part):
    for module, imported in others_of(part, types=False):
        lower = layer_of(imported) < layer_of(part)
        sideways = layer_of(imported) == layer_of(part) and not {part, imported} & COMPONENTS
        assert lower or sideways, f"voltana.{part} imports {module}, which lies above or beside it"


@pytest.mark.parametrize("part", PARTS)
def test_types_come_from_no_higher_layer(part):
    for module, imported in others_of(part, types=True):
        assert layer_of(imported) <= layer_of(part), f"voltana.{part} imports {module}"


def test_nothing_in_production_imports_what_compares_and_analyses():
    """Serving lies below both; packages and integrations are in no layer, so they are read here."""
    elsewhere = [
        path
        for folder in ("packages", "integrations")
        for path in (PACKAGE.parent / folder).rglob("*.py")
        if "tests" not in path.parts
    ]
    assert len(elsewhere) > 30
    for path in (*elsewhere, *files_of("serving"), *files_of("policies")):
        for module in imports_of(path, types=True):
            assert part_of(module) not in OFFLINE or not module.startswith("voltana."), (
                f"{path} imports {module}"
            )


def test_nothing_in_production_imports_the_rehearsal():
    integrations = [
        path
        for folder in ("packages", "integrations")
        for path in (PACKAGE.parent / folder).rglob("*.py")
        if not {"tests", "rehearsal"} & set(path.parts)
    ]
    assert len(integrations) > 30
    for path in (*integrations, *files_of("serving"), *files_of("plant"), *files_of("policies")):
        for module in imports_of(path, types=True):
            assert not module.startswith(("voltana.rehearsal", "voltana_sglang.rehearsal")), path


@pytest.mark.parametrize("part", sorted(COMPONENTS))
def test_components_never_meet_not_even_in_types(part):
    for module, imported in others_of(part, types=True):
        assert imported not in COMPONENTS, f"voltana.{part} imports {module}"


def test_the_check_suites_know_the_ports_and_the_pure_modules_alone():
    assert {imported for _, imported in others_of("testing", types=True)} <= TESTING_MAY_USE


@pytest.mark.parametrize("part", PARTS)
def test_libraries_stay_where_they_belong(part):
    for path in files_of(part):
        where = path.relative_to(PACKAGE).as_posix()
        for module in imports_of(path, types=True):
            homes = HOMES.get(module.split(".")[0])
            assert homes is None or where.startswith(homes), f"{where} imports {module}"


def test_nothing_else_reads_a_clock():
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if "time" in imports_of(path, types=False)
    }
    assert readers == CLOCK_READERS


@pytest.mark.parametrize("part", PARTS)
def test_randomness_comes_from_a_seed(part):
    for path in files_of(part):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                where = f"{path}:{node.lineno} calls {called}"
                if called.endswith(("default_rng", "Random")):
                    assert node.args, f"{where} without a seed"
                elif re.fullmatch(r"(np\.random|random)\.\w+", called):
                    assert called == "np.random.SeedSequence", f"{where}, which is shared state"


def loaded_by(*modules):
    """Top-level names of all modules that importing `modules` loads, in a fresh interpreter."""
    code = "import sys\n" + "".join(f"import {module}\n" for module in modules)
    code += "print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_the_core_loads_no_heavy_library():
    loaded = loaded_by(*CORE)
    assert "numpy" in loaded
    assert not loaded & (LAZY | {"pynvml", "hypothesis", "pytest", "typer", "pydantic"})


def test_the_command_line_loads_no_heavy_library():
    assert not loaded_by("voltana.cli.main") & (LAZY | {"pynvml", "numpy"})
