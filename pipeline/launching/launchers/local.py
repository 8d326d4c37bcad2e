"""Targets on this machine, as many at a time as it has GPUs for, each training with GPUs of its own; else cores."""

import logging
import os
import threading
from concurrent.futures import Future, wait

import psutil

from pipeline.errors import ExperimentError
from pipeline.hardware import data_workers, gpu_names
from pipeline.launching import launchers
from pipeline.launching.launchers import State

logger = logging.getLogger("pipeline.launching.launch")

CPU_JOB_BYTES = 2 * 2**30  # memory for a training of the embedded default and its data worker


class Local:
    """Threads that take the first target that can be made, and wait for its `dvc repro`.

    A target that waits for another one or for GPUs keeps no thread from those behind it.

    Args:
        jobs: targets at a time; None: as many as GPUs, or without a GPU as cores and as fit into the free memory.

    Raises:
        ExperimentError: this machine is too small for a target.
    """

    REFRESH_SECONDS = 5
    detached = False
    here = ()

    def __init__(self, settings, jobs, dataset, targets):
        gpus = gpu_names()
        for target in targets:
            if target.nodes > 1:
                raise ExperimentError(
                    f"machine.yaml: {target.name} has {target.nodes} nodes; more than 1 needs `launcher: slurm`"
                )
            if gpus and target.processes > len(gpus):
                raise ExperimentError(
                    f"machine.yaml: {target.name} has {target.processes} processes, this machine {len(gpus)} GPUs; "
                    "one each"
                )
        self.targets, self.gpus = targets, gpus
        self.cores = len(os.sched_getaffinity(0))
        cpus = min(self.cores, psutil.virtual_memory().available // CPU_JOB_BYTES)
        self.jobs = jobs or len(gpus) or max(1, cpus // settings.processes)
        if gpus and self.jobs > len(gpus):
            logger.info("%d trainings at a time, one for each GPU, not %d", len(gpus), self.jobs)
            self.jobs = len(gpus)
        self.futures, self.waiting = {}, []
        self.free, self.changed = list(gpus), threading.Condition()

    def start(self):
        self.futures, self.waiting = {target.name: Future() for target in self.targets}, list(self.targets)
        for _ in range(self.jobs):
            threading.Thread(target=self._work, daemon=True).start()

    def stop(self):
        """Start nothing more, let what runs save its state, and wait for it."""
        launchers.children.end()
        with self.changed:
            for target in self.waiting:
                self.futures[target.name].set_result(target.stages[0])
            self.waiting.clear()
            self.changed.notify_all()
        wait(self.futures.values())

    def states(self):
        """{target: State}."""
        return {name: self._state(future) for name, future in self.futures.items()}

    def _state(self, future):
        if future.done():
            return State("failed", stage=future.result()) if future.result() else State("done")
        return State("running" if future.running() else "queued")

    def _work(self):
        while taken := self._next():
            target, gpus = taken
            try:
                self.futures[target.name].set_result(self._make(target, gpus))
            except BaseException as error:  # for whoever asks for the states
                self.futures[target.name].set_exception(error)
            with self.changed:
                self.free += gpus
                self.changed.notify_all()

    def _next(self):
        """The first target that can be made and the GPUs for it, as soon as there is one; None if none is left."""
        with self.changed:
            while self.waiting:
                if target := next(filter(self._ready, self.waiting), None):
                    self.waiting.remove(target)
                    self.futures[target.name].set_running_or_notify_cancel()
                    count = target.processes if self.gpus else 0
                    gpus, self.free = self.free[:count], self.free[count:]
                    return target, gpus
                self.changed.wait()
        return None

    def _ready(self, target):
        before = [self.futures[name] for name in (*target.after, target.twin) if name in self.futures]
        return all(future.done() for future in before) and (not self.gpus or len(self.free) >= target.processes)

    def _make(self, target, gpus):
        """Make a target, unless one before it failed. Returns the stage that failed, or None."""
        if failed := next(filter(None, (self.futures[name].result() for name in target.after)), None):
            return failed
        if launchers.children.ending.is_set():
            return target.stages[0]
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        workers = {"CONTRASTMASK_WORKERS": str(data_workers(self.cores // self.jobs // target.processes))}
        failed = launchers.dvc(*target.stages, single=True, environment=target.environment | visible | workers)
        return target.stages[0] if failed else None
