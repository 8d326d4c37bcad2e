"""python -m benchmarks.row_cost TABLE...: what each row of tables has cost on this machine, beside what it measured.

Core-minutes, noted by `commands.launch`, are processor time of `dvc repro` for a run with all its processes: training,
prediction, scores and the start of each, of all attempts in this working copy. A run that several rows show counts in
each of them, but once in the sum; one whose training is that of another run costs next to nothing where that one was
made first.
"""

import argparse

import pandas as pd

from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.launching import costs
from pipeline.reporting import measured, tables


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+")
    declared, seconds = experiments.load(), costs.read()
    lines, counted = [], {stage for stage in seconds if stage.startswith(("pretrain@", "label@"))}
    for name in parser.parse_args().tables:
        for row in experiments.lookup(declared.tables, name, "table")["rows"]:
            made = [run for run in row.get("runs", ()) if f"train@{run}" in seconds]
            if made:
                lines.append(line(declared, row, made) | cost(seconds, {f"train@{run}" for run in made}))
                counted |= {f"train@{run}" for run in made}
    if not lines:
        raise ExperimentError("nothing of these tables was made by `commands.launch` here; run `make reproduce`")
    labelling = {stage.replace("label@", "train@") for stage in counted if stage.startswith("label@")}
    if unseen := labelling & seconds.keys() - counted:
        lines.append({"row": "runs that label alone", "runs": len(unseen)} | cost(seconds, unseen))
        counted |= unseen
    for words, start in (("initial weights", "pretrain@"), ("labels of training images", "label@")):
        if of_kind := {stage for stage in counted if stage.startswith(start)}:
            lines.append({"row": words, "runs": len(of_kind)} | cost(seconds, of_kind))
    lines.append({"row": "together", "runs": len(counted)} | cost(seconds, counted))
    print(pd.DataFrame(lines).fillna("").to_markdown(index=False, disable_numparse=True))


def cost(seconds, stages):
    """The last column of a line."""
    return {"core-minutes": f"{sum(seconds[stage] for stage in stages) / 60:.1f}"}


def line(declared, row, made):
    """The first columns of a row of a table: its runs, and in each direction the numbers of the groups."""
    runs = [declared.runs[name] for name in made]
    found = {"row": row["label"], "backbone": runs[0].backbone, "schedule": runs[0].schedule, "runs": len(runs)}
    for run in runs:
        if (result := measured.result(experiments.chosen_dataset(), run)) is not None:
            task = result.task
            of_groups = " / ".join(tables.number(result.value(group=group)[0]) for group in task.groups[:2])
            heads = " / ".join(f"{group} {task.main_metric.label}" for group in task.groups[:2])
            found[f"{run.direction}, {heads}"] = of_groups
    return found


if __name__ == "__main__":
    main()
