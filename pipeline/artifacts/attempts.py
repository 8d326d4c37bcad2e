"""What became of the latest attempt at each run: a small file per run that every process of the project can read.

The files lie below `paths.home()`, outside DVC: they tell a report why a result is absent, and `commands.launch` how
far a training is. They are never an input of a number.
"""

import contextlib
import logging
import os
import socket
import time
from dataclasses import dataclass

import psutil

from pipeline.artifacts import files, paths
from pipeline.artifacts.training_log import read_progress
from pipeline.errors import ExperimentError, Interrupted, one_line

logger = logging.getLogger("pipeline.artifacts.attempts")

ENDS = {"train": "trained", "evaluate": "evaluated", "label": "labelled"}  # stage -> its end, a state
COUNTED = {"train": "iteration", "label": "image"}  # what the progress of a stage counts
STATES = ("running", "failed", *ENDS.values(), "interrupted")


@dataclass(frozen=True)
class Status:
    """The latest attempt at a run.

    Attributes:
        state: 'running', 'failed', 'trained', 'evaluated', 'labelled', or 'interrupted': ended without saying how.
        stage: 'train', 'evaluate' or 'label'.
        fingerprint: of the training that was attempted; None if it failed before that was known.
        error: one line, for a failed attempt.
        iteration, of: progress of the training, or images of a labelling; None before its first report.
        seconds: time of either so far, all attempts that continued it included, start-up left out; None likewise.
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
        """Seconds left at the pace so far, or None."""
        if not self.iteration or self.seconds is None:
            return None
        return (self.of - self.iteration) * self.seconds / self.iteration

    def describe(self):
        """A few words for a table."""
        if self.state in ("running", "interrupted") and self.stage in COUNTED and self.iteration:
            return f"{self.state} at {COUNTED[self.stage]} {self.iteration} of {self.of}"
        if self.state in ("running", "interrupted"):
            return f"{self.state} ({self.stage})"
        return f"failed: {self.error}" if self.state == "failed" else self.state


def labelling(run_name):
    """What an attempt at labelling images is called, which is none at what its run is asked for."""
    return f"label@{run_name}"


def read(dataset, run_name):
    """The Status of the latest attempt at a run, or None if there was none on this machine."""
    record = _read(dataset, run_name)
    if record is None:
        return None
    state, fingerprint = record["state"], record.get("fingerprint")
    if state == "running" and record.get("host") == _host() and not _alive(record):
        state = "interrupted"
    progress = read_progress(paths.scratch(fingerprint)) if fingerprint else {}
    return Status(
        state,
        record["stage"],
        fingerprint,
        record.get("error"),
        *(progress.get(key) for key in ("iteration", "of", "seconds")),
        progress.get("processes", 1),
    )


def _read(dataset, run_name):
    """The record of the latest attempt, or None if there is none or it is damaged: nothing depends on it."""
    record = files.read_json(_path(dataset, run_name))
    if record is None or record.get("state") not in STATES or record.get("stage") not in ENDS:
        return None
    texts = (record.get("fingerprint"), record.get("error"))
    if not isinstance(record.get("host"), str) or not all(isinstance(text, (str, type(None))) for text in texts):
        return None
    return record


def settle(dataset, run_name):
    """Record an attempt that says it runs as interrupted: for whoever knows, as a cluster does, that none runs."""
    record = _read(dataset, run_name)
    if record and record["state"] == "running":
        _write(dataset, run_name, record | {"state": "interrupted"})


def _host():
    """Name of the machine whose process numbers one's own are: on a cluster the node, as Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _alive(record):
    """Whether the process that wrote the record still runs; a recycled process number does not count."""
    try:
        return abs(psutil.Process(record["pid"]).create_time() - record["process_started"]) < 1
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return False


@contextlib.contextmanager
def attempt(dataset, run_name, stage):
    """Record an attempt at a stage of a run; yields a function to call with each fingerprint that is worked on.

    Ends as 'trained', 'evaluated' or 'labelled', as 'interrupted' by a signal, or as 'failed' with the error in one
    line; the error is raised on.
    """
    process = psutil.Process()
    record = {
        "state": "running",
        "stage": stage,
        "host": _host(),
        "pid": process.pid,
        "process_started": process.create_time(),
        "started": time.time(),
    }

    def write(**changes):
        record.update(changes)
        _write(dataset, run_name, record)

    write()
    try:
        yield lambda fingerprint: write(fingerprint=fingerprint)
    except (Interrupted, KeyboardInterrupt):
        write(state="interrupted")
        raise
    except Exception as error:
        write(state="failed", error=one_line(error))
        raise
    write(state=ENDS[stage])


def _write(dataset, run_name, record):
    try:
        files.write_json(_path(dataset, run_name), record)
    except (OSError, ExperimentError) as error:  # a full disk: nothing depends on this file
        logger.warning("%s; status not recorded", one_line(error))


def _path(dataset, run_name):
    return paths.statuses(dataset) / f"{run_name}.json"
