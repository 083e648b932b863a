"""What the plugin relies on in SGLang's sources, checked without importing or running them.

As a program it fetches the wheels of several versions and checks each:
``python engine_signatures.py 0.5.11 0.5.12 ...`` (``make sglang-matrix``).
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEDULER = "sglang/srt/managers/scheduler.py"
REGISTRY = "sglang/srt/plugins/hook_registry.py"
BATCH = "sglang/srt/managers/schedule_batch.py"
FORWARD_MODES = "sglang/srt/model_executor/forward_batch_info.py"

METHODS = {
    "run_batch": ["self", "batch", "pp_proxy_tensors"],
    "process_batch_result": ["self", "batch", "result"],
}
"""Methods of Scheduler that every event loop calls, and their arguments."""

MODES = {"EXTEND", "DECODE", "MIXED", "IDLE", "TARGET_VERIFY", "PREBUILT"}
HOOK_TYPES = {"BEFORE", "AFTER", "AROUND", "REPLACE"}
REQUEST_FIELDS = {"rid", "output_ids", "finished_reason"}
BATCH_FIELDS = {"reqs", "forward_mode", "seq_lens_cpu", "extend_num_tokens"}


def complaints(read: Callable[[str], str]) -> list[str]:
    """What a version lacks; empty if the plugin can measure it.

    Args:
        read: Returns the source at a path, such as `SCHEDULER`; raises KeyError or OSError.
    """
    try:
        trees = {
            path: ast.parse(read(path)) for path in (SCHEDULER, REGISTRY, BATCH, FORWARD_MODES)
        }
    except (KeyError, OSError) as error:
        return [f"no such file: {error}"]
    found = []
    scheduler = _class(trees[SCHEDULER], "Scheduler")
    for name, arguments in METHODS.items():
        method = _method(scheduler, name)
        if method is None:
            found.append(f"Scheduler.{name} is gone")
        elif [a.arg for a in method.args.args] != arguments:
            found.append(f"Scheduler.{name} takes {[a.arg for a in method.args.args]}")
    for tree, name, wanted in (
        (trees[FORWARD_MODES], "ForwardMode", MODES),
        (trees[REGISTRY], "HookType", HOOK_TYPES),
        (trees[BATCH], "ScheduleBatch", BATCH_FIELDS),
        (trees[BATCH], "Req", REQUEST_FIELDS),
    ):
        if missing := wanted - _assigned(_class(tree, name)):
            found.append(f"{name} lacks {sorted(missing)}")
    if _method(_class(trees[REGISTRY], "HookRegistry"), "register") is None:
        found.append("HookRegistry.register is gone")
    return found


def _class(tree: ast.Module, name: str) -> ast.ClassDef | None:
    found = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    return found[0] if found else None


def _method(owner: ast.ClassDef | None, name: str) -> ast.FunctionDef | None:
    body = owner.body if owner is not None else []
    found = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == name]
    return found[0] if found else None


def _assigned(owner: ast.ClassDef | None) -> set[str]:
    made = _method(owner, "__init__")
    names = {
        node.attr
        for node in ast.walk(made or ast.Module([], []))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    for node in owner.body if owner is not None else []:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def check_wheel(version: str, folder: Path) -> list[str]:
    """Fetch the wheel of a version and check it."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, f"sglang=={version}", "-d", str(folder)], check=True)
    (wheel,) = folder.glob(f"sglang-{version}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return complaints(lambda path: archive.read(path).decode())


def main(versions: list[str]) -> int:
    """Check versions; the exit status says whether all are as expected."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for version in versions:
            found = check_wheel(version, Path(folder))
            wrong += bool(found)
            sys.stdout.write(f"{version}: {'; '.join(found) or 'as expected'}\n")
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
