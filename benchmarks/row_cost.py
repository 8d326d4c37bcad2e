"""python -m benchmarks.row_cost TABLE...: what each row of tables has cost on this machine, as `commands.launch` noted.

Core-minutes are processor time of `dvc repro` for a run with all its processes: training, prediction, scores and the
start of each, of all attempts in this working copy. A run that several rows show counts in each of them, but once in
the sum; one whose training is that of another run costs next to nothing where that one was made first.
"""

import argparse

from rich.console import Console
from rich.table import Table

from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.launching import costs


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+")
    declared, seconds, counted = experiments.load(), costs.read(), set()
    chosen = parser.parse_args().tables
    if unknown := [name for name in chosen if name not in declared.tables]:
        raise ExperimentError(f"no table {unknown[0]!r}; valid: {', '.join(declared.tables)}")
    shown = Table("table", "row", "backbone", "schedule", "runs", "core-minutes")
    for name in chosen:
        for row in declared.tables[name]["rows"]:
            made = [run for run in row.get("runs", ()) if f"train@{run}" in seconds]
            if not made:
                continue
            first = declared.runs[made[0]]
            spent = sum(seconds[f"train@{run}"] for run in made)
            shown.add_row(name, row["label"], first.backbone, first.schedule, str(len(made)), f"{spent / 60:.1f}")
            counted |= {f"train@{run}" for run in made}
    weights = {stage for stage in seconds if stage.startswith("pretrain@")}
    for stage in sorted(weights):
        shown.add_row("", "initial weights", stage.removeprefix("pretrain@"), "", "", f"{seconds[stage] / 60:.1f}")
    labels = {stage for stage in seconds if stage.startswith("label@")}
    if labels:
        shown.add_row(
            "", "labels of training images", "", "", str(len(labels)), f"{sum(map(seconds.get, labels)) / 60:.1f}"
        )
    together = sum(seconds[stage] for stage in counted | weights | labels)
    shown.add_row("", "together", "", "", str(len({*counted})), f"{together / 60:.1f}")
    Console(width=160).print(shown)


if __name__ == "__main__":
    main()
