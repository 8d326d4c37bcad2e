"""environment.yml is the one list of versions: read strictly, valid for conda, complete."""

import ast
import importlib.metadata
import re
import sys

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from tools import pins
from tools.pins import ROOT, SetupError

ENVIRONMENT = """\
name: contrastmask
channels:
  - conda-forge
variables:
  MMCV_FULL_VERSION: 1.7.2  # compiled
dependencies:
  - python=3.11
  - pip
  - pip:
      - -c constraints.txt
      # detection
      - torch==2.13.0
      - mmdet==2.28.2  # last of its line
"""


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names(lines):
    return {normalised(line.split("==")[0]) for line in lines}


def constraint_lines():
    lines = pins.CONSTRAINTS.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture
def environment(tmp_path):
    def write(text):
        path = tmp_path / "environment.yml"
        path.write_text(text)
        return path

    return write


def test_reads_pins_and_ignores_comments(environment):
    read = pins.read_pins(environment(ENVIRONMENT))
    assert read == pins.Pins("3.11", "1.7.2", ("torch==2.13.0", "mmdet==2.28.2"))
    assert read.requirement("mmdet") == "mmdet==2.28.2"


@pytest.mark.parametrize(
    "line",
    [
        "      - numpy",
        "      - numpy>=2",
        "    - numpy==2.4.6",
        "      - git+https://example.org/x.git",
        "  numpy: 2",
    ],
)
def test_a_line_that_is_not_a_pin_is_an_error(environment, line):
    with pytest.raises(SetupError, match=rf"line 14: cannot read '{re.escape(line.strip())}'"):
        pins.read_pins(environment(ENVIRONMENT + line + "\n"))


@pytest.mark.parametrize(
    ("removed", "missing"),
    [("  - python=3.11\n", "python"), ("  MMCV_FULL_VERSION: 1.7.2  # compiled\n", "MMCV_FULL_VERSION")],
)
def test_a_missing_pin_is_an_error(environment, removed, missing):
    with pytest.raises(SetupError, match=f"no {missing}"):
        pins.read_pins(environment(ENVIRONMENT.replace(removed, "")))


def test_the_strict_reader_agrees_with_a_yaml_reader():
    content = YAML(typ="safe").load(pins.ENVIRONMENT)
    (pip,) = (entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    read = pins.read_pins()
    assert [*read.pip] == [line for line in pip if not line.startswith("-c ")]
    assert read.mmcv_full == str(content["variables"]["MMCV_FULL_VERSION"])
    assert f"python={read.python}" in content["dependencies"]


def test_constraints_pin_only_what_environment_does_not():
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in constraint_lines())
    assert not names(constraint_lines()) & (names(pins.read_pins().pip) | {"mmcv-full"})
    assert not [line for line in constraint_lines() if line.startswith("nvidia-")]


def reachable(requirements):
    """Normalised names of the distributions that installing `requirements` (names) brings, themselves included."""
    found, waiting = set(), [(normalised(name), "") for name in requirements]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for requirement in map(Requirement, importlib.metadata.requires(name) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = normalised(requirement.name)
                waiting += [(needed, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in found}


def test_the_pip_list_brings_all_that_mmcv_needs_and_all_that_is_constrained():
    """mmcv-full is installed without dependencies, so what it imports must come from the pip list."""
    brought = reachable(names(pins.read_pins().pip))
    assert names(constraint_lines()) <= brought
    needed = (Requirement(line) for line in importlib.metadata.requires("mmcv-full"))
    needed = {normalised(each.name) for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})}
    assert needed <= brought


def test_the_running_environment_has_the_pinned_versions():
    read = pins.read_pins()
    for line in (*read.pip, *constraint_lines(), f"mmcv-full=={read.mmcv_full}"):
        name, version = line.split("==")
        assert importlib.metadata.version(name).split("+")[0] == version


def imported_modules(folder):
    """Top-level name of every module that a Python file of `folder` imports from outside its own package."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield path, node.module.split(".")[0]


OPTIONAL = {"onnxruntime"}  # for a file that a user brings; who lacks it is told how to install it


@pytest.mark.parametrize("folder", ["pipeline", "stages", "tests", "benchmarks", "tools"])
def test_every_import_is_declared(folder):
    ours = {path.name.removesuffix(".py") for path in ROOT.iterdir()} | OPTIONAL
    declared = names(pins.read_pins().pip) | {"mmcv-full"}
    providers = importlib.metadata.packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path, module in imported_modules(folder)
        if module not in sys.stdlib_module_names | ours
        and not declared & {normalised(name) for name in providers.get(module, ())}
    }
    assert not undeclared


def test_tools_need_no_package():
    """They run before anything is installed, mmcv_unity.py when torch is."""
    imported = {(path.name, module) for path, module in imported_modules("tools")} - {("mmcv_unity.py", "torch")}
    assert {module for _, module in imported} <= sys.stdlib_module_names | {"tools"}


def test_fingerprint_follows_content_not_time(tmp_path, monkeypatch):
    copy = tmp_path / "environment.yml"
    copy.write_text(ENVIRONMENT)
    monkeypatch.setattr(pins, "ENVIRONMENT", copy)
    before = pins.fingerprint()
    copy.touch()
    assert pins.fingerprint() == before
    copy.write_text(ENVIRONMENT.replace("torch==2.13.0", "torch==2.13.1"))
    assert pins.fingerprint() != before
