"""Containerfiles, and the steps of docs/operations.md, executed in a bare Debian.

Run by `make test-containers`, as root: there is no container builder where the project is tested.
"""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from tests.operations.chroot import ROOT, Chroot, execute, instructions
from voltana import __version__

FOLDER = ROOT / "deploy" / "containers"
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

STAND_INS = {
    "sudo": 'exec "$@"',
    # No init runs in a chroot: units are enabled, and what would start them is left out.
    "systemctl": "exec /usr/bin/systemctl $(printf '%s\\n' \"$@\" | grep -vx -- --now)",
}

without_debian = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("debootstrap") is None,
    reason="needs root and debootstrap (make test-containers installs it)",
)


def steps(heading):
    """What the page has an operator type under a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert section is not None, heading
    found = re.findall(r"^```sh\n(.*?)^```", section[1], re.M | re.S)
    assert found, heading
    return "\n".join(found)


@pytest.mark.parametrize("file", sorted(FOLDER.iterdir()), ids=lambda file: file.suffix[1:])
def test_containerfiles_copy_what_there_is_and_pin_what_they_fetch(file):
    told = instructions(file)
    for word, rest in told:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
        if word == "RUN":
            for command in re.findall(r"pip install [^&]*", rest):
                assert "--require-hashes" in command or "--no-deps" in command, command
    words = [word for word, _ in told]
    if "ENTRYPOINT" in words:
        assert words.index("USER") < words.index("ENTRYPOINT")
        user = dict(told)["USER"]
        assert not user.startswith(("0", "root"))


@pytest.fixture
def chroot(tmp_path):
    made = Chroot.at(tmp_path / "debian")
    yield made
    shutil.rmtree(made.root, ignore_errors=True)


@pytest.mark.chroot
@without_debian
@pytest.mark.parametrize("name", ["actuatord", "serving", "engine"])
def test_a_containerfile_builds_and_what_it_starts_runs(name, chroot):
    if name == "engine":  # its base is an image with a Python of its own, which this stands for
        chroot.run("python3 -m venv /opt/engine")
        chroot.environment["PATH"] = "/opt/engine/bin:" + chroot.environment["PATH"]
    told = execute(FOLDER / f"Containerfile.{name}", chroot)
    assert not chroot.path("/src").exists()
    if name == "engine":
        plugins = (
            "from importlib.metadata import entry_points as e; print(e(group='sglang.srt.plugins'))"
        )
        assert "voltana_sglang.plugin:register" in chroot.run(f'python3 -c "{plugins}"')
        chroot.run("/opt/voltana/bin/python -m voltana_sglang agent --help", user="1000:1000")
        assert "voltana-sglang" in chroot.run("python3 -m pip list")
        return
    (program,) = json.loads(told["ENTRYPOINT"])
    assert chroot.user != "0:0"
    assert "--help" in chroot.run(f"{program} --help")
    if name == "actuatord":
        config = chroot.path("/etc/voltana/actuatord.toml")
        config.parent.mkdir(parents=True)
        config.write_text("[[allow]]\nusers = [1000]\ngpus = []\n")
        chroot.run(f"{program} {' '.join(json.loads(told['CMD']))} --check", user="0:0")
        assert "no actuator daemon answers" in chroot.run(f"{program} status", check=False)
    else:
        assert "--decode" in chroot.run(f"{program} router --help")
        check = (
            "import voltana.serving.router.service, voltana.serving.agent.service, voltana_sglang"
        )
        chroot.run(f"{program.rpartition('/')[0]}/python -c '{check}'")


@pytest.mark.chroot
@without_debian
def test_a_host_is_installed_upgraded_rolled_back_and_uninstalled_as_documented(chroot):
    chroot.copy(["."], "/checkout")
    chroot.folder = "/checkout"
    for name, text in STAND_INS.items():
        chroot.path(f"/usr/local/bin/{name}").write_text(f"#!/bin/sh\n{text}\n")
        chroot.path(f"/usr/local/bin/{name}").chmod(0o755)
    chroot.run(steps("Install"))
    ids = chroot.run("id voltana; id voltana-metrics")
    assert re.search(r"\(voltana\).*\(voltana-status\)", ids.splitlines()[0])
    assert "(voltana)" not in ids.splitlines()[1]
    modes = chroot.run("stat -c '%a %U %G' /etc/voltana/actuatord.toml /etc/voltana/cluster.toml")
    assert modes.split("\n")[:2] == ["644 root root", "640 root voltana"]
    enabled = {p.name for p in chroot.path("/etc/systemd/system/multi-user.target.wants").iterdir()}
    assert {f"{u}.service" for u in ("voltana-actuatord", "voltana-launch")} <= enabled
    printed = chroot.run(
        "/opt/voltana/bin/voltana-sglang router --help", user=user_of(chroot, "voltana")
    )
    assert "--config" in printed
    version = "from voltana import __version__; print(__version__)"
    marker = chroot.path("/checkout/voltana/__init__.py")
    before = marker.read_text()
    marker.write_text(before.replace(__version__, f"{__version__}.post1"))
    chroot.run(steps("Upgrade"))
    assert "post1" in chroot.run(f"/opt/voltana/bin/python -I -c '{version}'")
    assert "post1" in chroot.run("/opt/actuatord/bin/pip show voltana-actuatord")
    chroot.run(steps("Roll back"))
    assert "post1" not in chroot.run(f"/opt/voltana/bin/python -I -c '{version}'")
    assert "post1" not in chroot.run("/opt/actuatord/bin/pip show voltana-actuatord")
    chroot.run(steps("Uninstall"))
    left = chroot.run(
        "find /etc /opt /usr/lib/sysusers.d /var/lib /run -name '*voltana*' -o -name '*actuatord*'"
    )
    assert left == ""
    assert "voltana" not in chroot.path("/etc/passwd").read_text()
    assert "voltana" not in chroot.path("/etc/group").read_text()


def user_of(chroot, name):
    return chroot.run(f"id -u {name}").strip() + ":" + chroot.run(f"id -g {name}").strip()
