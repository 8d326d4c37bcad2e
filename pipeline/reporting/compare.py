"""The experiments of the free run side by side: the knobs that differ between them and the headline numbers."""

import math

import dvc.api
import pandas as pd

from pipeline import methods, tasks
from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.reporting import tables


def comparison(rows=None):
    """Return a data frame as people read it: a line for the workspace and for each experiment of this commit.

    A commit without numbers is left out: nobody versioned its dvc.lock.

    Args:
        rows: what `dvc.api.exp_show()` returns for this working copy, the default.
    """
    shown, numbers = [], _numbers()
    for row in dvc.api.exp_show(str(paths.ROOT)) if rows is None else rows:
        # a name that several files hold is spelled with the file
        row = {name.rsplit("params.yaml:", 1)[-1]: value for name, value in row.items()}
        if row.get("Experiment") or row["rev"] == "workspace" or not pd.isna(_number(row.get(next(iter(numbers))))):
            shown.append(row)
    knobs = [name for name in experiments.read_yaml(paths.PARAMS) if len({str(row.get(name)) for row in shown}) > 1]
    lines = []
    for row in shown:
        state = row.get("State")
        lines.append(
            {"Experiment": row.get("Experiment") or row["rev"]}
            | {knob: _text(row.get(knob)) for knob in knobs}
            | {label: tables.number(_number(row.get(name))) for name, label in numbers.items()}
            | {"State": "" if state in (None, "", "Success") else state.lower()}
        )
    frame = pd.DataFrame(lines)
    return frame if frame["State"].any() else frame.drop(columns="State")


def free_task():
    """The task of the free run."""
    free = next((run for run in experiments.load().runs.values() if not run.pinned), None)
    return methods.task_of(free.method) if free else tasks.task(tasks.FIRST)


def _numbers():
    """{headline number of the free run: how the table calls it}."""
    task = free_task()
    return {
        name: f"{task.words(kind, task.metric(metric).name)}, {group}" for group, kind, metric, name in task.headline
    }


def _number(value):
    """A number that DVC found; NaN for what it writes otherwise, such as `!`."""
    return value if isinstance(value, (int, float)) else math.nan


def _text(value):
    if value is None or isinstance(value, float) and math.isnan(value):
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)
