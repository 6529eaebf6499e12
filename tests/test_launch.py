"""The launch scripts, with a stand-in for Python that says what it was asked to do."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# An interpreter that has pip, makes empty environments, and prints how pytest is called.
STAND_IN = """#!/usr/bin/env bash
case "$*" in
  "-c import pip") [ -n "$NO_PIP" ] && [ ! -e "$(dirname "$0")/../has_pip" ] && exit 1; exit 0 ;;
  "-m pip install "*) case "$*" in *"${BROKEN:-nothing is}"*) echo "no network" >&2; exit 1 ;; esac ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg" "$3/has_pip" ;;
  "-m pytest "*) shift 2; printf 'pytest %s\\n' "$*" ;;
  "-m launch.quickstart"*) shift 2; printf 'quickstart %s\\n' "$*" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts need bash")


@pytest.fixture
def run(tmp_path):
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def script(name, *args, venv=tmp_path / "venv", **environment):
        return subprocess.run(
            ["bash", str(ROOT / "launch" / name), *map(str, args)],
            env=os.environ | {"PYTHON": str(python), "VENV": str(venv), "NO_PIP": ""} | environment,
            capture_output=True,
            text=True,
        )

    return script


def test_second_run_installs_nothing(run, tmp_path):
    first, second = run("test.sh"), run("test.sh")
    assert first.returncode == second.returncode == 0
    assert "making a virtual environment" in first.stdout
    assert "== installing" in first.stdout
    assert "installed already" in second.stdout
    assert "making" not in second.stdout


@pytest.mark.parametrize("broken", ["--upgrade pip", "--editable .[tpu]"])
def test_what_could_not_be_installed_is_tried_again(tmp_path, broken):
    """On workers of a TPU nothing but the exit code tells, and nobody has said `set -e`."""
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    given = os.environ | {"PYTHON": str(python), "VENV": str(tmp_path / "venv"), "NO_PIP": ""}

    def install(**others):
        return subprocess.run(
            ["bash", "-c", ". launch/environment.sh && environment '[tpu]' && echo ready"], cwd=ROOT,
            env=given | others, capture_output=True, text=True,
        )  # fmt: skip

    done = install(BROKEN=broken)
    assert done.returncode == 1
    assert "no network" in done.stderr
    done = install()
    assert done.returncode == 0
    assert "== installing" in done.stdout
    assert done.stdout.endswith("ready\n")


def test_a_folder_that_is_no_environment_is_never_deleted(run, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    done = run("quickstart.sh", venv=tmp_path / "precious")
    assert done.returncode == 1
    assert "is no virtual environment" in done.stderr
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_an_environment_without_pip_is_made_again(run, tmp_path):
    """Debian without python3-venv leaves one behind."""
    assert run("quickstart.sh").returncode == 0
    (tmp_path / "venv" / "has_pip").unlink()
    done = run("quickstart.sh", "--seed", 3, NO_PIP="1")
    assert done.returncode == 0
    assert "making a virtual environment" in done.stdout
    assert "quickstart --seed 3" in done.stdout


def test_recorded_cases_are_found_behind_a_path(run, tmp_path):
    cases = tmp_path / "recorded cases" / "crab"
    cases.mkdir(parents=True)
    (cases / "c01_frontend.json").write_text("{}")
    called = lambda *args: run("test.sh", *args).stdout.splitlines()[-1]  # noqa: E731
    assert called(cases.parent).endswith(f"-m not slow --goldens {cases.parent}")
    assert called("--goldens", cases).endswith(f"-m not slow --goldens {cases}")
    assert called("tests/parity", cases).endswith(f"tests/parity --goldens {cases}")
    assert called("tests").endswith("-m not slow tests")
    assert called("-m", "slow").endswith("-m slow")


# A Python that is too old, with a uv that brings the interpreter of the other tests; it notes how it is called.
OLD = """#!/bin/bash
case "$*" in
  "-c import sys"*) exit 1 ;;
  "-m uv python find 3.12") echo "$BROUGHT" ;;
  *) echo "$UV_PYTHON_PREFERENCE $*" >> "$NOTES" ;;
esac
"""


@pytest.mark.parametrize("old", [True, False])
def test_a_machine_without_a_new_python_gets_one(run, tmp_path, old):
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "python3").write_text(OLD if old else STAND_IN)
    (bin / "python3").chmod(0o755)
    script = 'PATH="$BIN"; bring_python; echo "found ${PYTHON:-$(find_python)}"'
    done = subprocess.run(
        ["/bin/bash", "-c", f". {ROOT}/launch/environment.sh; {script}"], capture_output=True, text=True,
        env={"BIN": str(bin), "NOTES": str(tmp_path / "notes"), "BROUGHT": str(tmp_path / "python"), "NO_PIP": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"found {tmp_path / 'python' if old else 'python3'}"
    if old:
        pip, uv = (tmp_path / "notes").read_text().splitlines()
        assert pip.endswith("--user uv>=0.5,<1")
        assert uv == "only-managed -m uv python install --quiet 3.12"
