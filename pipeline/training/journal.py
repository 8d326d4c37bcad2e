"""What a training tells while it runs: log.jsonl, progress.json, a line on the terminal, MLflow.

log.jsonl has no times, so that the same training writes the same bytes.
"""

import json
import logging
import math
import time
from datetime import timedelta

import numpy as np
import torch

from pipeline.artifacts import files
from pipeline.artifacts.training_log import read_log, read_progress
from pipeline.errors import ExperimentError
from pipeline.training import collectives

logger = logging.getLogger("pipeline.training.journal")


class Journal:
    """Gather what every step has to tell; every `interval` steps their means make a record. The first process writes.

    Args:
        training: its name and `log_interval` count.
        scratch: its folder.
        steps: of the whole training.
        done: steps that an earlier attempt made; later records are forgotten and will be written again.
        pending: what that attempt had gathered since its last record, as `pending` said.
        tracker: as of `loop.train`.
    """

    def __init__(self, training, scratch, steps, done=0, pending=None, tracker=None):
        self.name, self.scratch, self.steps, self.tracker = training.name, scratch, steps, tracker
        self.interval = training.optimisation["log_interval"]
        self.log, self.progress = scratch / "log.jsonl", scratch / "progress.json"
        self._gathered = json.loads(pending) if pending else {}
        self._first = collectives.rank() == 0
        if self._first:
            cut(self.log, done)
        earlier = read_progress(scratch)
        self._before = earlier["seconds"] * min(1.0, done / max(earlier["iteration"], 1)) if earlier else 0.0
        self._began = self._last = time.monotonic()
        self._done, self._steps, self._waited = done, 0, 0.0

    def add(self, step):
        """Take in what a `computation.Step` tells. Raises ExperimentError if a mean is not finite."""
        for name, value, weight in step.values:
            self._gathered.setdefault(name, []).append((value, weight))
        self._steps, self._waited = self._steps + 1, self._waited + step.waited
        if step.number % self.interval == 0:
            self._record(step)
        if self._first and (step.number % self.interval == 0 or step.number == self.steps):
            self._tell_progress(step)

    def pending(self):
        """What was gathered since the last record, as text; it belongs to the next one."""
        self._read()
        return json.dumps(self._gathered)

    def _read(self):
        """Fetch the gathered numbers that are still on the device, all at once."""
        waiting = [value for values in self._gathered.values() for value, _ in values if torch.is_tensor(value)]
        numbers = iter(torch.stack([value.double().reshape(()) for value in waiting]).tolist() if waiting else ())
        self._gathered = {
            name: [(next(numbers) if torch.is_tensor(value) else value, weight) for value, weight in values]
            for name, values in self._gathered.items()
        }

    def _record(self, step):
        self._read()
        record = {"iter": step.number, "lr": step.rate}
        record |= {name: mean(values) for name, values in self._gathered.items()}
        for name, value in record.items():
            if not math.isfinite(value):
                raise ExperimentError(
                    f"run {self.name}: {name} is {value} at iteration {step.number}; lower the learning rate "
                    f"(profiles.<profile>.training.optimizer.lr) or check the data; state is kept in {self.scratch}"
                )
        self._gathered = {}
        if not self._first:
            return
        with files.naming(self.log) as path, path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._tell(step.number, record)
        if self.tracker:
            self.tracker.log_history([record])

    def _tell(self, done, record):
        now = time.monotonic()
        remaining = (now - self._began) / (done - self._done) * (self.steps - done)
        each, data = (now - self._last) / self._steps, self._waited / self._steps
        left = timedelta(seconds=int(remaining))
        words = [f"step {done}/{self.steps}: {each:.3f} s (data {data:.3f} s), {left} left"]
        if torch.cuda.is_available():
            words.append(f"{torch.cuda.max_memory_allocated() // 2**20} MB")
        values = (f"{name} {value:.4g}" for name, value in record.items() if name != "iter")
        logger.info("%s", ", ".join([*words, *values]))
        self._last, self._steps, self._waited = now, 0, 0.0

    def _tell_progress(self, step):
        """Tell other processes how far this training is and how fast: scratch/progress.json.

        `iteration` and `of` count steps; `seconds` is the training time of this and earlier attempts up to
        `iteration`, start-up left out; `processes` share it.
        """
        progress = {
            "iteration": step.number,
            "of": self.steps,
            "seconds": self._before + time.monotonic() - self._began,
            "processes": collectives.world_size(),
        }
        files.write_json(self.progress, progress)


def mean(values):
    """Mean of (value, weight) pairs."""
    values, weights = np.array(values).T
    return float(np.sum(values * weights) / np.sum(weights))


def cut(log, step):
    """Keep the records of a log up to a step."""
    kept = [record for record in read_log(log) if record["iter"] <= step] if log.exists() else []
    files.write_text(log, "".join(json.dumps(record) + "\n" for record in kept))
