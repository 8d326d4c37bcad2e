"""Where the steps of `stages.launch` run: on this machine (`local`) or as jobs of a cluster (`slurm`).

A launcher has `here` (targets to make before), `start()` and `states()`; `detached` says whether its steps, and a
report behind them, go on without the process that started them. A step is always the same command, `dvc repro`.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from pipeline import paths
from pipeline.errors import ExperimentError


@dataclass(frozen=True)
class Step:
    """What is made as one: the initial weights of a backbone, or a run.

    Attributes:
        name: the run, or `pretrain@BACKBONE`.
        targets: DVC stages, one after the other.
        after: name of the step that has to succeed first, or None.
        nodes, processes: of its training: nodes, and processes (GPUs) on each.
    """

    name: str
    targets: tuple
    after: str | None = None
    nodes: int = 1
    processes: int = 1

    @property
    def log(self):
        return log(self.targets[0])

    @property
    def environment(self):
        """What tells the training how many processes it has."""
        return {"CONTRASTMASK_NODES": str(self.nodes), "CONTRASTMASK_PROCESSES": str(self.processes)}


@dataclass(frozen=True)
class State:
    """What has become of a step.

    Attributes:
        state: 'queued', 'running', 'done' or 'failed'.
        note: why it waits, or how it ended if the training cannot know; else None.
        target: the DVC stage that failed.
    """

    state: str
    note: str | None = None
    target: str | None = None

    @property
    def over(self):
        return self.state in ("done", "failed")


def log(target):
    """Where the output of a step goes, named after its first target."""
    return paths.launch_log(target.replace("@", "_"))


def command(*arguments):
    """A command line of DVC that waits for other DVC commands."""
    module = "pipeline.launchers.unlocked" if "SLURM_JOB_ID" in os.environ else "dvc"
    return [sys.executable, "-m", module, "--wait-for-lock", *arguments]


def dvc(*targets, single=False, force=False, echo=False, environment=None):
    """Run `dvc repro` on targets; its output goes to a log of its own unless it is echoed. Returns the exit status."""
    line = command("repro", *["--single-item"] * single, *["--force"] * force, *targets)
    environment = os.environ | (environment or {})
    if echo:
        return subprocess.run(line, cwd=paths.ROOT, env=environment, check=False).returncode
    path = log(targets[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        done = subprocess.run(
            line, cwd=paths.ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    return done.returncode


def changed_stages():
    """Names of the DVC stages that are not as their inputs say. Raises ExperimentError if DVC cannot tell."""
    asked = subprocess.run(command("status", "--json"), cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if asked.returncode:
        said = [line for line in asked.stderr.splitlines() if line.startswith("ERROR: ")] or ["no output"]
        what, busy, _ = said[0].removeprefix("ERROR: ").partition(", it is being blocked by")
        remedy = "; wait for the launch or DVC command that runs here" if busy else ""
        raise ExperimentError(f"`dvc status` failed: {what}{remedy}")
    return set(json.loads(asked.stdout))
