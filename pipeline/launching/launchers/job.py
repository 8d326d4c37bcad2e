"""python -m pipeline.launching.launchers.job DATASET STAGE...: a job, `dvc repro` on the stages of one target."""

import os
import sys

from pipeline.artifacts import paths
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.launching import launchers


@command
def main():
    dataset, *stages = sys.argv[1:]
    if (now := experiments.chosen_dataset()) != dataset:
        raise ExperimentError(f"params.yaml: dataset is {now!r}, this job was submitted for {dataset!r}; launch again")
    os.chdir(paths.ROOT)
    line = launchers.command("repro", "--single-item", *stages)
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
