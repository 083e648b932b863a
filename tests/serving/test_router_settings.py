"""The router's table and its command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from voltana.errors import VoltanaError
from voltana.serving.dialect import Dialect
from voltana.serving.router.command import router
from voltana.serving.router.command_line import table_of
from voltana.serving.router.routers import own_modules
from voltana.serving.router.settings import RouterTable
from voltana.validation import explain

if TYPE_CHECKING:
    from pathlib import Path


def backend(name: str, role: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "url": "http://h:1"} | changes


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"backends": [backend("p", "prefill")]}, "Add a decode server"),
        ({"backends": [backend("a", "unified"), backend("b", "decode")]}, "one router for each"),
        ({"backends": [backend("a", "unified"), backend("a", "unified")]}, "its own name"),
        ({"backends": [backend("a", "unified", url="h:1")]}, "Write http://HOST:PORT"),
        ({"backends": [backend("a", "unified", url="http://h:x")]}, "Write http://HOST:PORT"),
        ({"timeout_s": 0}, "timeout_s = 0 is not allowed"),
        ({"tiemout_s": 3}, "Did you mean 'timeout_s'"),
        ({"port": 70000}, "at most 65535"),
        ({"backends": [backend("a", "unified", feed="h:5601")]}, "must be tcp://HOST:PORT or ipc"),
        ({"backends": [backend("a", "unified", feed="tcp://h")]}, "must be tcp://HOST:PORT or ipc"),
    ],
)
def test_wrong_settings_name_field_range_and_remedy(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RouterTable.model_validate(table)
    assert message in str(explain(caught.value, RouterTable))


def complaint(*arguments: str) -> str:
    """What the command says that is started wrongly."""
    app = typer.Typer()
    app.command()(router)
    result = CliRunner().invoke(app, arguments, obj=lambda: Dialect(prefill_port="port"))
    assert isinstance(result.exception, VoltanaError), result.output
    return str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "at least one server"),
        (("--prefill", "http://h:1"), "Add a decode server"),
        (("--decode", "http://h:1,8998"), "URL,PORT of a prefill server"),
        (("--unified", "http://h:1", "--feed", "x=tcp://h:2"), "with a NAME of unified-0"),
        (("--config", "/nowhere.toml"), "cannot be read"),
    ],
)
def test_the_router_s_command_line_explains_itself(
    arguments: tuple[str, ...], message: str
) -> None:
    assert message in complaint(*arguments)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "voltana.toml"
    path.write_text("[router\n")
    assert "is not TOML" in complaint("--config", str(path))
    path.write_text("router = 5\n")
    assert "Write [router]" in complaint("--config", str(path))


def test_modules_that_the_policy_names_may_send_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "voltana.toml"
    path.write_text(
        '[policy]\ncontroller = "voltana"\npredictor = "mine.models:make"\nlevels = "above:900"\n'
        '[router]\npolicy = "mine.policies:make"\nport = 31000\n'
    )
    settings = RouterTable.model_validate(table_of(path, "router"))
    assert settings.port == 31000
    assert own_modules(settings) == {"mine.models", "mine.policies"}


def test_without_an_engine_the_command_names_those_that_have_one() -> None:
    assert "knows no engine" in complaint("--unified", "http://h:1")
