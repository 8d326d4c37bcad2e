"""What became of the latest attempt at each run: a small file per run that every process of the project can read.

The files lie below `paths.home()`, outside DVC: they tell a report why a result is absent, and `stages.launch` how far
a training is. They are never an input of a number.
"""

import contextlib
import json
import logging
import os
import socket
import time
from dataclasses import dataclass

import psutil

from pipeline import paths
from pipeline.errors import ExperimentError, Interrupted
from pipeline.redaction import redact

logger = logging.getLogger("pipeline.status")


@dataclass(frozen=True)
class Status:
    """The latest attempt at a run.

    Attributes:
        state: 'running', 'failed', 'trained', 'evaluated', or 'interrupted': ended without saying how.
        stage: 'train' or 'evaluate'.
        fingerprint: of the training that was attempted; None if it failed before that was known.
        error: one line, for a failed attempt.
        iteration, of: progress of the training; None before its first report.
        seconds: training time so far, all attempts that continued it included, start-up left out; None likewise.
        processes: GPUs, or processes without one, that share the training.
    """

    state: str
    stage: str
    fingerprint: str | None
    error: str | None
    iteration: int | None
    of: int | None
    seconds: float | None
    processes: int = 1

    @property
    def eta(self):
        """Seconds of training left at the pace so far, or None."""
        if not self.iteration or self.seconds is None:
            return None
        return (self.of - self.iteration) * self.seconds / self.iteration

    def describe(self):
        """A few words for a table."""
        if self.state in ("running", "interrupted") and self.stage == "train" and self.iteration:
            return f"{self.state} at iteration {self.iteration} of {self.of}"
        if self.state in ("running", "interrupted"):
            return f"{self.state} ({self.stage})"
        return f"failed: {self.error}" if self.state == "failed" else self.state


def read(dataset, run_name):
    """The Status of the latest attempt at a run, or None if there was none on this machine."""
    try:
        record = json.loads(_path(dataset, run_name).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    state = record["state"]
    if state == "running" and record["host"] == _host() and not _alive(record):
        state = "interrupted"
    progress = {}
    if record.get("fingerprint"):
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            progress = json.loads((paths.scratch(record["fingerprint"]) / "progress.json").read_text())
    return Status(
        state, record["stage"], record.get("fingerprint"), record.get("error"),
        *(progress.get(key) for key in ("iteration", "of", "seconds")), progress.get("processes", 1),
    )  # fmt: skip


def settle(dataset, run_name):
    """Record an attempt that says it runs as interrupted: for whoever knows, as a cluster does, that none runs."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        record = json.loads(_path(dataset, run_name).read_text())
        if record["state"] == "running":
            _write(dataset, run_name, record | {"state": "interrupted"})


def _host():
    """Name of the machine whose process numbers one's own are: on a cluster the node, as Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _alive(record):
    """Whether the process that wrote the record still runs; a recycled process number does not count."""
    try:
        return abs(psutil.Process(record["pid"]).create_time() - record["process_started"]) < 1
    except psutil.Error:
        return False


@contextlib.contextmanager
def attempt(dataset, run_name, stage):
    """Record an attempt at a stage of a run; yields a function to call with each fingerprint that is worked on.

    Ends as 'trained' or 'evaluated', or as 'failed' with the error's last line, which is raised on.
    """
    process = psutil.Process()
    record = {"state": "running", "stage": stage, "host": _host(), "pid": process.pid,
              "process_started": process.create_time(), "started": time.time()}  # fmt: skip

    def write(**changes):
        record.update(changes)
        _write(dataset, run_name, record)

    write()
    try:
        yield lambda fingerprint: write(fingerprint=fingerprint)
    except Interrupted:
        write(state="interrupted")
        raise
    except (Exception, KeyboardInterrupt) as error:
        line = (redact(error).strip().splitlines() or [""])[-1]
        write(state="failed", error=line if isinstance(error, ExperimentError) else f"{type(error).__name__}: {line}")
        raise
    write(state={"train": "trained", "evaluate": "evaluated"}[stage])


def _write(dataset, run_name, record):
    path = _path(dataset, run_name)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record))
        os.replace(temporary, path)
    except OSError as error:  # a full disk: nothing depends on this file
        logger.warning("%s: %s; status not recorded", path, error.strerror)


def _path(dataset, run_name):
    return paths.statuses(dataset) / f"{run_name}.json"
