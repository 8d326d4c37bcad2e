"""python -m pipeline.launchers.step DATASET TARGET...: what a job of a cluster runs, `dvc repro` on the targets."""

import os
import sys

from dvc.config import Config
from dvc.fs import localfs
from dvc.rwlock import _edit_rwlock

from pipeline import experiments, launchers, paths
from pipeline.cli import command
from pipeline.errors import ExperimentError


def forget_killed(targets):
    """Remove from DVC's list of files in use what a killed attempt at the same step left there.

    DVC drops an entry if no process has its number, but on another node any process may have it. That no attempt at
    the step lives is certain here: Slurm runs a job once, and there is one job for a step.
    """
    tail = " ".join(launchers.command(*targets, single=True)[3:])

    def alive(info):
        return not info["cmd"].endswith(tail)

    folder = paths.ROOT / ".dvc"
    with _edit_rwlock(str(folder / "tmp"), localfs, Config(str(folder))["core"].get("hardlink_lock", False)) as lock:
        lock["write"] = {path: info for path, info in lock["write"].items() if alive(info)}
        readers = {path: list(filter(alive, infos)) for path, infos in lock["read"].items()}
        lock["read"] = {path: infos for path, infos in readers.items() if infos}


@command
def main():
    dataset, *targets = sys.argv[1:]
    if (now := experiments.chosen_dataset()) != dataset:
        raise ExperimentError(f"params.yaml: dataset is {now!r}, this job was submitted for {dataset!r}; launch again")
    forget_killed(targets)
    line = launchers.command(*targets, single=True)
    os.chdir(paths.ROOT)
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
