"""Loading a user's policy, and the errors that name the remedy."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.honest import HonestController, HonestPredictor, HonestRouter
from voltana.errors import ConfigError
from voltana.levels import A100_CLOCKS_MHZ
from voltana.policy import (
    InstanceContext,
    InstancePolicy,
    as_instance_policy,
    call_factory,
    is_users_own,
    load_object,
)
from voltana.slo import Slo
from voltana.values import Decision, Role

CONTEXT = InstanceContext(
    instance="d0", role=Role.DECODE, table_mhz=A100_CLOCKS_MHZ, slo=Slo(ttft_s=0.6, itl_s=0.06)
)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current directory; forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_a_module_in_the_current_directory_is_found(module):
    module("user_policy_a", "class Mine:\n    def decide(self, observation): ...\n")
    made = load_object("user_policy_a:Mine")
    assert made.__name__ == "Mine"


@pytest.mark.parametrize("reference", ["mine", "", ":", "module:", ":factory"])
def test_a_reference_has_a_module_and_a_factory(reference):
    with pytest.raises(ConfigError) as caught:
        load_object(reference)
    for word in (repr(reference), "MODULE:FACTORY", "voltana policies"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "import not_there_at_all\n",
            ["ModuleNotFoundError", "not_there_at_all", "user_policy_b.py:1", "Install it"],
        ),
        ("def broken(:\n", ["SyntaxError", "user_policy_b.py, line 1", "Mend the module"]),
        (
            "\nx = undefined_name\n",
            ["NameError", "undefined_name", "user_policy_b.py:2", "Mend the module"],
        ),
        ("raise SystemExit(3)\n", ["SystemExit", "user_policy_b.py:1", "Mend the module"]),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_cause(module, source, words):
    module("user_policy_b", source)
    with pytest.raises(ConfigError) as caught:
        load_object("user_policy_b:Mine")
    for word in ("user_policy_b:Mine", "cannot be imported", *words):
        assert word in str(caught.value)
    assert "where the module lies" not in str(caught.value)  # it lies where it was found


def test_only_a_users_own_code_is_imported():
    assert is_users_own("mine:make")
    assert not any(map(is_users_own, ("voltana", "fixed:1200/900", "best-fixed")))


def test_a_module_that_does_not_exist_is_a_config_error():
    with pytest.raises(ConfigError, match=r"no_such_module_here:X.*cannot be imported.*install it"):
        load_object("no_such_module_here:X")


def test_a_missing_name_lists_those_that_exist(module):
    module("user_policy_c", "def Mine(): ...\n_hidden = 1\n")
    with pytest.raises(ConfigError, match=r"has no 'Yours'.*It defines: Mine\."):
        load_object("user_policy_c:Yours")


def test_a_factory_gets_the_context_if_it_wants_one():
    assert call_factory(lambda: "nothing", CONTEXT) == "nothing"
    assert call_factory(lambda context: context, CONTEXT) is CONTEXT
    assert call_factory(lambda context=None: context, CONTEXT) is None
    assert call_factory(lambda *args, **options: args, CONTEXT) == ()
    assert isinstance(call_factory(HonestController, CONTEXT), HonestController)


def test_what_is_no_factory_is_refused():
    with pytest.raises(ConfigError, match=r"not callable.*Name the function, not its result"):
        call_factory(HonestController(), CONTEXT)
    with pytest.raises(ConfigError, match=r"needs the arguments context, gain.*defaults"):
        call_factory(lambda context, gain: None, CONTEXT)
    with pytest.raises(ConfigError, match=r"needs the arguments gain"):
        call_factory(lambda *, gain: None, CONTEXT)


def test_an_instance_policy_is_taken_as_it_is():
    policy = InstancePolicy(controller=HonestController(), levels_mhz=(1005.0,))
    assert as_instance_policy(policy, CONTEXT) is policy


def test_a_bare_controller_may_choose_every_clock_and_teaches_nothing():
    class Bare:
        def decide(self, observation):
            return Decision(clock_mhz=1410.0, reason="fast")

    made = as_instance_policy(Bare(), CONTEXT)
    assert made.levels_mhz == A100_CLOCKS_MHZ
    assert made.predictor is None


def test_a_controller_with_a_predictor_and_levels_brings_them():
    controller = HonestController()
    controller.levels_mhz = np.array([1005.0, 1410.0])
    made = as_instance_policy(controller, CONTEXT)
    assert isinstance(made.predictor, HonestPredictor)
    assert made.levels_mhz == (1005.0, 1410.0)
    assert all(type(mhz) is float for mhz in made.levels_mhz)


@pytest.mark.parametrize("made", [None, 3, HonestRouter()])
def test_what_is_no_controller_is_refused(made):
    with pytest.raises(ConfigError, match=f"returned {type(made).__name__}.*return a Controller"):
        as_instance_policy(made, CONTEXT)
