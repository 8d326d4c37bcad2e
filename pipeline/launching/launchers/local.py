"""Targets on this machine, as many at a time as it has GPUs for, each training with GPUs of its own; else cores."""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import psutil

from pipeline.errors import ExperimentError
from pipeline.hardware import data_workers, gpu_names
from pipeline.launching import launchers
from pipeline.launching.launchers import State

logger = logging.getLogger("pipeline.launching.launch")

CPU_JOB_BYTES = 2 * 2**30  # memory for a training of the embedded default and its data worker


class Local:
    """Threads that wait for GPUs and then for `dvc repro`.

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
        self.targets, self.gpus = targets, _Gpus(gpus)
        self.cores = len(os.sched_getaffinity(0))
        cpus = min(self.cores, psutil.virtual_memory().available // CPU_JOB_BYTES)
        self.jobs = jobs or len(gpus) or max(1, cpus // settings.processes)
        if gpus and self.jobs > len(gpus):
            logger.info("%d trainings at a time, one for each GPU, not %d", len(gpus), self.jobs)
            self.jobs = len(gpus)
        self.futures, self.started = {}, set()

    def start(self):
        pool = ThreadPoolExecutor(self.jobs)
        for target in self.targets:
            self.futures[target.name] = pool.submit(self._make, target, self.futures.get(target.after))
        pool.shutdown(wait=False)

    def stop(self):
        """Start nothing more, let what runs save its state, and wait for it."""
        launchers.children.end()
        wait(self.futures.values())

    def states(self):
        """{target: State}."""
        return {name: self._state(name, future) for name, future in self.futures.items()}

    def _state(self, name, future):
        if future.done():
            return State("failed", stage=future.result()) if future.result() else State("done")
        return State("running" if name in self.started else "queued")

    def _make(self, target, before):
        """Make a target once the one before it is there. Returns the stage that failed, or None."""
        if before and before.result():
            return before.result()
        if launchers.children.ending.is_set():
            return target.stages[0]
        gpus = self.gpus.take(target.processes)
        self.started.add(target.name)
        try:
            visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
            workers = {"CONTRASTMASK_WORKERS": str(data_workers(self.cores // self.jobs // target.processes))}
            failed = launchers.dvc(*target.stages, single=True, environment=target.environment | visible | workers)
        finally:
            self.gpus.give(gpus)
        return target.stages[0] if failed else None


class _Gpus:
    """The GPUs that no training has; none at all on a machine without."""

    def __init__(self, names):
        self.free, self.any, self.changed = list(names), bool(names), threading.Condition()

    def take(self, count):
        count = count if self.any else 0
        with self.changed:
            self.changed.wait_for(lambda: len(self.free) >= count)
            taken, self.free = self.free[:count], self.free[count:]
        return taken

    def give(self, gpus):
        with self.changed:
            self.free += gpus
            self.changed.notify_all()
