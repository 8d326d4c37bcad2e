"""Every remedy that the code prints is tried by a test, which `remedies.yaml` names."""

import ast
import re

import pytest
from ruamel.yaml import YAML

from tools.pins import ROOT

TABLE = YAML(typ="safe").load(ROOT / "tests" / "core" / "remedies.yaml")
PROGRAMS = (
    "cd",
    "chmod",
    "cp",
    "df",
    "dmesg",
    "dvc",
    "fuser",
    "git",
    "kill",
    "ls",
    "make",
    "mlflow",
    "mv",
    "python",
    "quota",
    "rm",
    "scancel",
    "source",
    "ulimit",
    "unset",
)
COMMAND = re.compile(rf"(?:{{}})?(?:{'|'.join(PROGRAMS)}|{{}}=?)(?=[ ;]|$)")
ALONE = re.compile(
    r"dvc repro|python -m (?:stages|commands|mlflow)|git (?:init|add|checkout|config|update-index|-C) "
    r"|make (?:setup|ui|reproduce)|rm -f |\{\} -m pip |.*\{\}python -m "
)
TELLS = (
    "ask|bring|choose|clone|correct|declare|delete|end|enlarge|evaluate|fetch|free|give|install|let|lower|make"
    "|mend|mount|move|name|open|press|put|raise|remove|repeat|replace|restore|run|save|set|start|take|track|try"
    "|undo|unset|use|wait|write"
)
ADVICE = re.compile(rf"(?:^|[;:,] |\b(?:or|and|then|them) |\()(?:or |then |and )?(?:{TELLS})\b")
ERRORS = ("Error", "Problem", "Refused", "Interrupted")  # how the names of those end that are shown to users


def printed():
    """Strings of the code that is run, as (file, text) with {} for what is filled in; no docstrings."""
    for folder in ("pipeline", "stages", "commands", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            inner |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                if id(node) in inner:
                    continue
                if isinstance(node, ast.JoinedStr):
                    yield (
                        path.relative_to(ROOT).as_posix(),
                        "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values),
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield path.relative_to(ROOT).as_posix(), node.value


def commands():
    """{command: files that print it}."""
    found = {}
    for file, text in printed():
        if file in TABLE["documents"]:
            continue
        quoted = [each for each in re.findall("`([^`]+)`", text) if COMMAND.match(each) and each != "{}"]
        for command in quoted or ([text] if "`" not in text and "\n" not in text and ALONE.match(text) else []):
            found.setdefault(command, set()).add(file)
    return found


def advice():
    """Texts that tell the user to do something; the commands in them are left out."""
    for file, text in printed():
        if file not in TABLE["documents"] and " " in text and ADVICE.search(re.sub("`[^`]+`", "", text)):
            yield file, text


def known_tests():
    """Names of all tests, as `file::function`."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(ROOT / 'tests').as_posix()}::{node.name}"


def test_every_command_is_tried_or_has_a_reason():
    declared = {**TABLE["commands"], **TABLE["untried"], **TABLE["named"]}
    found = commands()
    new = {command: sorted(files) for command, files in found.items() if command not in declared}
    assert not new, "printed, and no test in tests/core/remedies.yaml tries it"
    assert not set(declared) - set(found), "in tests/core/remedies.yaml and no longer printed"
    assert len(declared) == sum(len(TABLE[section]) for section in ("commands", "untried", "named"))


def test_every_advice_is_tried_or_has_a_reason():
    kinds = [*TABLE["advice"], *TABLE["untried_advice"], *TABLE["no_advice"]]
    patterns = {kind: re.compile(kind) for kind in kinds}
    texts = list(advice())
    left = [each for each in texts if not any(pattern.search(each[1]) for pattern in patterns.values())]
    assert not left, "tells to do something, and no kind of tests/core/remedies.yaml is of it"
    used = {kind for kind, pattern in patterns.items() if any(pattern.search(text) for _, text in texts)}
    assert not set(kinds) - used, "in tests/core/remedies.yaml and no longer printed"


@pytest.mark.parametrize("section", ["commands", "advice"])
def test_the_named_tests_exist(section):
    known = set(known_tests())
    named = {each for value in TABLE[section].values() for each in ([value] if isinstance(value, str) else value)}
    assert not named - known


def test_reasons_are_given():
    for section in ("untried", "untried_advice", "named", "no_advice"):
        assert all(isinstance(reason, str) and len(reason) > 7 for reason in TABLE[section].values())
