"""python -m pipeline.launching.launchers.step DATASET TARGET...: a job, `dvc repro` on the targets of one step."""

import os
import sys

from pipeline.artifacts import paths
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.launching import launchers


@command
def main():
    dataset, *targets = sys.argv[1:]
    if (now := experiments.chosen_dataset()) != dataset:
        raise ExperimentError(f"params.yaml: dataset is {now!r}, this job was submitted for {dataset!r}; launch again")
    os.chdir(paths.ROOT)
    line = launchers.command("repro", "--single-item", *targets)
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
