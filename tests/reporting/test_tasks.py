"""Nothing outside of a task's room knows its metrics and kinds by name."""

import ast

import pytest

from pipeline import tasks
from pipeline.artifacts import paths
from pipeline.errors import ExperimentError
from pipeline.tasks.instances import TASK

# `bbox` is a field of COCO's annotations as well
NAMES = {*TASK.keys, *(metric.label for metric in TASK.metrics), *TASK.kinds} - {"bbox"}


@pytest.mark.parametrize("folder", ["pipeline", "stages", "commands"])
def test_no_other_code_names_a_metric(folder):
    room = paths.ROOT / "pipeline" / "tasks" / "instances"
    for path in (paths.ROOT / folder).rglob("*.py"):
        if path.is_relative_to(room):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in NAMES, f"{path.relative_to(paths.ROOT)}:{node.lineno}: {node.value!r}"


def test_an_unknown_task_is_named_with_a_suggestion():
    with pytest.raises(
        ExperimentError, match=r"unknown task 'instanses'; valid: instances, .*did you mean 'instances'"
    ):
        tasks.task("instanses")


@pytest.mark.parametrize("task", [*map(tasks.task, tasks.names())], ids=tasks.names())
def test_the_main_and_the_headline_numbers_are_scored(task):
    for group, kind, key in (task.main, *(entry[:3] for entry in task.headline)):
        assert group in task.groups and kind in task.kinds and key in task.keys
    assert task.main == task.headline[0][:3]
    assert task.main_kind == next(iter(task.kinds)) and task.main_metric == task.metrics[0]
    assert set(task.supervision) == set(task.parts)
