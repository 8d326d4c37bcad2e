"""Where the targets of `commands.launch` run: on this machine (`local`) or as jobs of a cluster (`slurm`).

A launcher has `here` (stages to make before), `start()` and `states()`; `detached` says whether its targets, and a
report behind them, go on without the process that started them. A target is always the same command, `dvc repro`.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass

from pipeline.artifacts import dvc_lock, paths
from pipeline.errors import ExperimentError
from pipeline.launching import costs
from pipeline.processes import Children, tie_to_parent

children = Children()  # the DVC commands of this launch

FORGET = "run `rm dvc.lock` and the same command again: DVC finds in its cache what is unchanged and makes the rest"


@dataclass(frozen=True)
class Target:
    """What is made as one: the initial weights of a backbone, a run, or its labels of the training images.

    Attributes:
        name: the run, `pretrain@BACKBONE` or `label@RUN`.
        stages: DVC stages, one after the other.
        after: names of the targets that have to succeed first.
        twin: name of a target before it that trains the same, or None: once that is over, nothing is left to train.
        nodes, processes: of its training: nodes, and processes (GPUs) on each.
        dataset: that it is made on.
    """

    name: str
    stages: tuple
    after: tuple = ()
    twin: str | None = None
    nodes: int = 1
    processes: int = 1
    dataset: str | None = None

    @property
    def log(self):
        return log(self.stages[0])

    @property
    def environment(self):
        """What tells the training how many processes it has."""
        return {"CONTRASTMASK_NODES": str(self.nodes), "CONTRASTMASK_PROCESSES": str(self.processes)}


@dataclass(frozen=True)
class State:
    """What has become of a target.

    Attributes:
        state: 'queued', 'running', 'done' or 'failed'.
        note: why it waits, or how it ended if the training cannot know; else None.
        stage: the DVC stage that failed.
    """

    state: str
    note: str | None = None
    stage: str | None = None

    @property
    def over(self):
        return self.state in ("done", "failed")


def log(stage):
    """Where the output of a target goes, named after its first stage."""
    return paths.launch_log(stage.replace("@", "_"))


def command(*arguments):
    """A command line of DVC that waits for other DVC commands."""
    module = "pipeline.launching.launchers.dvc_without_rwlock" if "SLURM_JOB_ID" in os.environ else "dvc"
    return [sys.executable, "-m", module, "--wait-for-lock", *arguments]


def dvc(*stages, single=False, force=False, echo=False, environment=None):
    """Run `dvc repro` on stages; its output goes to a log of its own unless it is echoed.

    Returns:
        The exit status.
    """
    options = [*(["--single-item"] if single else []), *(["--force"] if force else [])]
    line = command("repro", *options, *stages)
    environment = os.environ | (environment or {})
    if echo:
        return children.run(line, cwd=paths.ROOT, env=environment)
    path = log(stages[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    account = functools.partial(costs.add, stages[0])
    with path.open("w") as file:
        return children.run(line, account, cwd=paths.ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def changed_stages():
    """Names of the DVC stages that are not as their inputs say. Raises ExperimentError if DVC cannot tell."""
    _require_lock_file()
    asked = subprocess.run(
        command("status", "--json"),
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=tie_to_parent,
    )
    with contextlib.suppress(ValueError):
        if not asked.returncode:
            return set(json.loads(asked.stdout))
    lines = asked.stderr.strip().splitlines()
    said = [line for line in lines if line.startswith("ERROR: ")] or lines or [f"exit status {asked.returncode}"]
    what, busy, _ = said[0].removeprefix("ERROR: ").partition(", it is being blocked by")
    remedy = "; wait for the launch or DVC command that runs here" if busy else ""
    raise ExperimentError(f"`dvc status` failed: {what}{remedy}")


def _require_lock_file():
    """Refuse a dvc.lock that DVC cannot read, such as one that git could not merge, and say how it comes back."""
    path = paths.ROOT / "dvc.lock"
    if not path.exists():
        return
    if (found := dvc_lock.damage(path.read_bytes().decode(errors="replace"))) is None:
        return
    remedy = FORGET
    if found == dvc_lock.CONFLICTS:
        unmerged = subprocess.run(
            ["git", "ls-files", "--unmerged", "dvc.lock"], cwd=paths.ROOT, capture_output=True, check=False
        ).stdout
        if unmerged:
            remedy = "run `git checkout --ours dvc.lock` (or --theirs), then `git add dvc.lock`, and this command again"
    raise ExperimentError(f"dvc.lock: {found}; {remedy}")
