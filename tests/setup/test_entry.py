"""Stages started the wrong way say in a line what to do; the remedy is tried."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tools.pins import ROOT

MODULES = sorted(
    f"{package}.{path.stem}"
    for package in ("stages", "commands")
    for path in (ROOT / package).glob("*.py")
    if path.stem not in ("__init__", "pipeline")
)


def run(*command, **environment):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "commands.doctor"])
def test_an_environment_that_is_not_activated(module):
    done = run(sys._base_executable, "-S", "-m", module)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the environment is not activated") and "has no torch" in done.stderr
    assert "`source .venv/bin/activate`" in done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_a_module_run_as_a_script(module):
    done = run(sys.executable, f"{module.replace('.', '/')}.py")
    assert done.returncode == 1 and done.stderr.startswith("error: this is a module: run `cd ")
    assert f"python -m {module}`" in done.stderr and done.stderr.count("\n") == 1


def test_the_remedy_for_a_script_works():
    (command,) = re.findall("`(.*)`", run(sys.executable, "commands/track.py").stderr)
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    done = subprocess.run(f"{command} --help", shell=True, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "--all" in done.stdout


FAKE = """
import importlib.util, sys
sys.orig_argv = ["python", "-m", "stages.train"]
real = importlib.util.find_spec
{change}
import stages
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sys.version_info = (3, 9, 1, 'final', 0)", "this is Python 3.9"),
        ("importlib.util.find_spec = lambda name, *rest: None if name == 'dvc' else real(name, *rest)", "has no dvc"),
        (
            "class Bare: submodule_search_locations = []\nimportlib.util.find_spec = lambda *_: Bare",
            "mmcv is here without its compiled operators",
        ),
    ],
)
def test_what_else_is_wrong_with_an_environment(change, said):
    done = run(sys.executable, "-c", FAKE.format(change=change))
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1
    assert "make setup" in done.stderr or "activate`" in done.stderr


@pytest.mark.parametrize("command", ["launch", "compare"])
def test_what_needs_dvc_in_a_copy_without_git(command, tmp_path):
    for name in ("commands/__init__.py", "pipeline/__init__.py", "pipeline/environment.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    program = FAKE.format(change="").replace("stages.train", f"commands.{command}").replace("stages", "commands")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "has no .git, which DVC needs" in done.stderr
    (command,) = re.findall("`(.*)`", done.stderr)
    assert subprocess.run(command, shell=True, cwd=tmp_path).returncode == 0
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path).returncode == 0


def test_the_right_environment_says_nothing():
    assert run(sys.executable, "-c", FAKE.format(change="")).returncode == 0
