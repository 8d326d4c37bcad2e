"""The Makefile as a user meets it; recipes run in a copy, in a path with a space."""

import os
import re
import shutil
import subprocess

import pytest

from tools import pins
from tools.pins import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "with space"
    folder.mkdir()
    for name in ("Makefile", "environment.yml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def make(folder, *arguments, **environment):
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "VENV")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**inherited, **environment}, capture_output=True, text=True
    )


def test_help_is_the_default_and_lists_every_target(checkout):
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    shown = make(checkout)
    assert shown.returncode == 0
    assert re.findall(r"^  make ([\w-]+) ", shown.stdout, re.MULTILINE) == phony.split()
    assert make(checkout, "help").stdout == shown.stdout


def test_every_job_sets_up_first(checkout):
    for target in ("reproduce", "test", "test-slurm", "test-postgres", "lint", "format", "compare", "ui"):
        assert "tools.setup_env" in make(checkout, "-n", target).stdout


def test_a_current_environment_costs_nothing(checkout):
    stamp = checkout / ".venv" / ".stamp"
    stamp.parent.mkdir()
    stamp.write_text("current")
    assert "Nothing to be done" in make(checkout, "setup").stdout


def test_a_touched_file_only_renews_the_stamp(checkout):
    stamp = checkout / ".venv" / ".stamp"
    stamp.parent.mkdir()
    stamp.write_text(pins.fingerprint())
    os.utime(stamp, (0, 0))
    done = make(checkout, "setup")
    assert done.returncode == 0 and done.stdout == ""
    assert stamp.stat().st_mtime > (checkout / "environment.yml").stat().st_mtime


def test_no_python_is_one_line(checkout, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "make"):
        (tools / name).symlink_to(shutil.which(name))
    failed = make(checkout, "setup", PATH=str(tools))
    assert failed.returncode != 0
    assert failed.stderr.splitlines()[0].startswith("error: no Python on PATH: install python3.11")


def test_clean_keeps_results_unless_confirmed(checkout):
    others = ("reports/snapshot/tables", "reports/seed_study", "reports/mine")
    for name in (
        "data/generated",
        "mlruns",
        ".venv/lib/__pycache__",
        "tools/__pycache__",
        ".pytest_cache",
        "reports/generated/tables",
        *others,
    ):
        (checkout / name).mkdir(parents=True, exist_ok=True)
    kept = make(checkout, "clean")
    assert kept.returncode == 0 and "kept (CONFIRM=1 removes it)" in kept.stdout
    assert not (checkout / "tools/__pycache__").exists() and not (checkout / ".pytest_cache").exists()
    assert all((checkout / name).exists() for name in ("data/generated", "mlruns", ".venv/lib/__pycache__"))
    removed = make(checkout, "clean", "CONFIRM=1")
    assert removed.returncode == 0
    assert re.search(r"removing: .*\bdata$", removed.stdout, re.MULTILINE)
    assert not [name for name in ("data", "mlruns", ".venv") if (checkout / name).exists()]
    assert not (checkout / "reports/generated").exists() and all((checkout / name).exists() for name in others)
    assert (checkout / "environment.yml").exists()
