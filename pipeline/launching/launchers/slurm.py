"""Targets as jobs of a Slurm cluster whose nodes share this working copy: plain `sbatch` and `squeue`.

A job is one allocation that runs one target on its first node; the training starts its processes on the others itself.
Jobs are found again by their names, so any shell can watch them, and the last one builds the report. What a job leaves
is a record `scratch/launch/<dataset>_<target>.job`, "ID" while it is Slurm's, "ID EXIT_STATUS" when it has ended by
itself; Slurm's accounting is not needed.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pipeline.artifacts import locks, paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.launching import launchers
from pipeline.launching.launchers import State, Target

logger = logging.getLogger("pipeline.launching.launch")

OPTIONS = ("partition", "account", "time", "cpus_per_task", "mem")  # of sbatch, passed on as they are
GRACE_SECONDS = 60  # a file written on a node may take as long to show on a network file system
PATIENCE_SECONDS = 60  # for an answer of Slurm
REPORT = "report"
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")  # states of squeue
WEIGHTS_HERE = (
    "download",
    "random",
    "checkpoint",
)  # kinds of initial weights that take no training; nodes may lack the network

SCRIPT = Path(__file__).with_name("job.sh")


class Job(NamedTuple):
    """A job as squeue sees it."""

    id: int
    state: str
    reason: str


class Slurm:
    """Jobs of the targets, and one more that builds the report.

    Args:
        settings: pipeline.launching.settings.Settings.
        jobs: jobs that may run at the same time; None: as many as Slurm lets.
        dataset: the chosen one; jobs of another are left alone.

    Raises:
        ExperimentError: Slurm is not on this machine.
    """

    REFRESH_SECONDS = 5
    detached = True

    def __init__(self, settings, jobs, dataset, targets):
        if not shutil.which("sbatch"):
            raise ExperimentError("launcher slurm: sbatch is not on PATH; use a login node, or --launcher local")
        self.options, self.jobs, self.dataset = settings.slurm.model_dump(exclude_none=True), jobs, dataset
        self.targets = [*targets, Target(REPORT, (REPORT,))]
        self.name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', paths.ROOT.name)}-{_digest(paths.ROOT)}/{dataset}/"
        self.queue, self.gone, self.asked, self.silent = {}, {}, 0.0, False

    @property
    def here(self):
        """Targets to make on this machine before all jobs: initial weights that take no training."""
        declared = experiments.load()
        return [
            target.name
            for target in self.targets
            if target.name.startswith("pretrain")
            and declared.profile(target.dataset)["initial_weights"]["kind"] in WEIGHTS_HERE
        ]

    def start(self):
        """Submit what is neither up to date nor already queued or running, and behind it all the report.

        Raises ExperimentError if Slurm refuses a job; those before it go on, and launching again adopts them.
        """
        lock = paths.launch_log(REPORT).with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locks.hold(lock, "the launch"):  # two shells may launch at once
            changed = launchers.changed_stages()
            self.queue = self._ask()
            self._start(changed)
        self.asked = time.monotonic()

    def _start(self, changed):
        *targets, last = self.targets
        report = self.queue.pop(REPORT, None)
        ids = sorted(job.id for job in self.queue.values())
        adopted = len(ids)
        for target in targets:
            if target.name in self.queue:
                continue
            before = [str(self.queue[name].id) for name in target.after if name in self.queue]
            if changed & set(target.stages) or before:
                after = [":".join(["afterok", *before])] if before else []
                if self.jobs and len(ids) >= self.jobs:  # at most that many have no end of another to wait for
                    after.append(f"afterany:{ids[-self.jobs]}")
                line = ["python", "-m", "pipeline.launching.launchers.job", self.dataset, *target.stages]
                ids.append(self._submit(target, line, after))
            else:
                # of an earlier job: DVC says that the target is up to date
                self._record(target).unlink(missing_ok=True)
        if report and len(ids) == adopted:
            self.queue[REPORT] = report
        else:
            if report and report.state != "PENDING":
                ids.append(report.id)
            after = ["afterany:" + ":".join(map(str, ids))] if ids else []
            self._submit(last, ["python", "-m", "commands.launch", "--report"], after)
            if report and report.state == "PENDING":
                _slurm("scancel", str(report.id))
        logger.info("%d jobs in the queue, %d of them already were", len(self.queue), adopted + (report is not None))

    def _submit(self, target, line, after):
        """Submit one target. Returns the number of its job."""
        record = self._record(target)
        record.unlink(missing_ok=True)
        target.log.unlink(missing_ok=True)
        options = {
            "job-name": self.name + target.name,
            "chdir": paths.ROOT,
            "output": str(target.log).replace("%", "%%"),
            "open-mode": "append",
            "export": "ALL",
            "kill-on-invalid-dep": "yes",
            "nodes": target.nodes,
            "ntasks-per-node": 1,
            "signal": f"B:USR1@{self.options['warning_seconds']}",
        } | {key.replace("_", "-"): self.options[key] for key in OPTIONS if key in self.options}
        if "gres" in self.options:
            options["gres"] = f"{self.options['gres']}:{target.processes}"
        if after:
            options["dependency"] = ",".join(after)
        prologue = "\n".join(self.options.get("prologue", []))
        answer = _slurm(
            "sbatch",
            "--parsable",
            "--requeue",
            *(f"--{key}={value}" for key, value in options.items()),
            *self.options.get("extra", []),
            str(SCRIPT),
            str(Path(sys.executable).parent),
            str(record),
            str(self.options["restarts"]),
            *line,
            env=os.environ | target.environment | {"CONTRASTMASK_PROLOGUE": prologue},
        )
        job = int(answer.strip().splitlines()[-1].split(";")[0])
        with contextlib.suppress(FileExistsError), record.open("x") as file:  # it may already run and have said so
            file.write(str(job))
        self.queue[target.name] = Job(job, "PENDING", "")
        return job

    def states(self):
        """{target: State}; asks Slurm no more often than every `poll_seconds`."""
        if time.monotonic() - self.asked >= self.options["poll_seconds"]:
            try:
                self.queue, self.silent = self._ask(), False
            except ExperimentError as error:
                if not self.silent:
                    logger.warning("%s; asking again", error)
                self.silent = True
            self.asked = time.monotonic()
        known = {}
        for target in self.targets:
            known[target.name] = self._state(target, [known[name] for name in target.after])
        return known

    def _state(self, target, before):
        job = self.queue.get(target.name)
        number, status = self._recorded(target)
        if job and job.state in WAITING:
            return State("queued", job.reason)
        if status is not None:
            return State("done") if status == 0 else State("failed", stage=target.stages[0])
        if job:
            return State("running")
        if number is None:  # no job was needed
            return State("done")
        if failed := next((state for state in before if state.state == "failed"), None):
            return State("failed", stage=failed.stage)
        if time.monotonic() - self.gone.setdefault((target.name, number), time.monotonic()) < GRACE_SECONDS:
            return State("running")
        return State("failed", f"job {number} ended{self._how(number)}, see {target.log}", target.stages[0])

    def _ask(self):
        """{target: Job} of what is queued or running. Raises ExperimentError if Slurm does not answer."""
        queue = {}
        for line in _slurm("squeue", "--me", "--noheader", "--format=%i|%T|%r|%j").splitlines():
            number, state, reason, name = line.strip().split("|", 3)
            if name.startswith(self.name):
                job = Job(int(number), state, "" if reason == "None" else reason)
                queue[name.removeprefix(self.name)] = max(job, queue.get(name.removeprefix(self.name), job))
        return queue

    def _how(self, number):
        """How Slurm says that a job ended, as long as it remembers."""
        with contextlib.suppress(ExperimentError):
            if found := re.search(r"JobState=(\w+)", _slurm("scontrol", "show", "job", str(number))):
                return f" as {found[1]}"
        return ""

    def _record(self, target):
        return paths.launch_log(f"{self.dataset}_{target.name.replace('@', '_')}").with_suffix(".job")

    def _recorded(self, target):
        """(job, exit status) of the latest job of a target, each None if there is none."""
        try:
            number, *status = map(int, self._record(target).read_text().split())
        except (FileNotFoundError, ValueError):
            return None, None
        return number, status[0] if status else None


def _digest(path):
    return hashlib.sha256(str(path).encode()).hexdigest()[:8]


def _slurm(*command, **options):
    """The output of a Slurm command. Raises ExperimentError, one line, if it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, **options)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise ExperimentError(f"{command[0]}: {type(error).__name__}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = [line for line in lines if "error: " in line] or lines[-1:] or ["failed"]  # the first says why
        raise ExperimentError(f"{command[0]}: {said[0].removeprefix(f'{command[0]}: ')}")
    return done.stdout
