"""Make every chosen run, several at a time, then the report: DVC does each step, this module only orders them.

A run is one process `dvc repro --single-item train@RUN evaluate@RUN`. DVC keeps what is up to date, the scratch state
of a training continues what was interrupted, so launching again is always safe.
"""

import contextlib
import logging
import os
import queue
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline import experiments, paths, status
from pipeline.errors import ExperimentError
from pipeline.machine import gpu_names

logger = logging.getLogger("pipeline.launch")

REFRESH_SECONDS = 5
CPU_JOBS = 2  # trainings at a time without a GPU: each has data workers beside it and needs memory


def launch(jobs=None, dataset=None):
    """Train and evaluate the runs of selection.yaml, `jobs` at a time, then build headline, tables, figures and report.

    A run that fails does not stop the others; the report is built from what there is and says what is missing.

    Args:
        jobs: trainings at a time, at least 1; None: one on every GPU, or on every core up to CPU_JOBS without a GPU.

    Raises:
        ExperimentError: data or splits could not be made, or (after the report) runs failed; names them.
    """
    if jobs is not None and jobs < 1:
        raise ExperimentError(f"--jobs {jobs}; valid: 1 or more")
    gpus = gpu_names()
    jobs = jobs or len(gpus) or min(os.cpu_count() or 1, CPU_JOBS)
    dataset = dataset or experiments.chosen_dataset()
    selection = experiments.selected()
    if _up_to_date():
        logger.info("data, runs and report are up to date")
        return
    if _dvc("download", "split", echo=True):
        raise ExperimentError("data or splits could not be made, see above; nothing was trained")
    free = queue.SimpleQueue()  # of GPUs, one for each training at a time
    for index in range(jobs):
        free.put(gpus[index % len(gpus)] if gpus else None)
    with ThreadPoolExecutor(jobs) as pool:
        weights = {name: pool.submit(_step, free, f"pretrain@{name}") for name in selection["backbones"]}
        runs = {}
        for name in _longest_first(selection["runs"], dataset):
            runs[name] = pool.submit(_make, free, name, weights[selection["runs"][name]["backbone"]])
        _show(dataset, runs)
    failed = {name: future.result() for name, future in runs.items() if future.result()}
    wrong = _report(failed, selection["priors"])
    if failed:
        words = "; ".join(f"{name} ({_reason(dataset, name, step)})" for name, step in failed.items())
        raise ExperimentError(f"{len(failed)} of {len(runs)} runs have no result: {words}")
    if wrong:
        raise ExperimentError("the report could not be built completely, see above")


def _report(failed, priors):
    """Build the report from what there is. Returns the exit status."""
    stages = ["headline"] * ("current" not in failed) + [f"priors@{name}" for name in priors if name not in failed]
    stages += ["tables", "figures", "report"]
    # A failure changes what the report says, and so does its end, but neither changes a file that DVC compares.
    marker = paths.launch_log("incomplete")
    again = bool(failed) or marker.exists()
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    wrong = _dvc(*stages, single=True, force=again, echo=True)
    if not failed and not wrong:
        marker.unlink()
    return wrong


def _longest_first(runs, dataset):
    """Names of runs, those with the longest schedule first, so that no long one is left alone at the end."""
    schedules = experiments.load().profile(dataset)["schedules"]

    def length(name):
        schedule = schedules[runs[name]["schedule"]]
        return schedule.get("epochs", schedule.get("iterations"))

    return sorted(runs, key=lambda name: -length(name))


def _make(free, name, weights):
    """Train and evaluate one run once its initial weights are there. Returns the step that failed, or None."""
    return weights.result() or _step(free, f"train@{name}", f"evaluate@{name}")


def _step(free, *targets):
    """Run `dvc repro --single-item` on targets with a free GPU. Returns the first target if that failed, else None."""
    gpu = free.get()
    try:
        return targets[0] if _dvc(*targets, single=True, gpu=gpu) else None
    finally:
        free.put(gpu)


def _up_to_date():
    """Whether every stage is as its inputs say and the last report was of complete runs."""
    if paths.launch_log("incomplete").exists():
        return False
    command = [sys.executable, "-m", "dvc", "status", "--quiet"]
    return subprocess.run(command, cwd=paths.ROOT, capture_output=True, check=False).returncode == 0


def _dvc(*targets, single=False, force=False, echo=False, gpu=None):
    """Run `dvc repro` on targets; its output goes to a log of its own unless it is echoed. Returns the exit status."""
    environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro"]
    command += ["--single-item"] * single + ["--force"] * force + list(targets)
    if echo:
        return subprocess.run(command, cwd=paths.ROOT, env=environment, check=False).returncode
    log = _log(targets[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        done = subprocess.run(
            command, cwd=paths.ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    return done.returncode


def _log(step):
    return paths.launch_log(step.replace("@", "_"))


def _reason(dataset, name, step):
    """Why a run has no result: its own last words, else where to look."""
    known = status.read(dataset, name)
    if known and known.state == "failed" and step.endswith(f"@{name}"):
        return known.describe()
    return f"{step} failed, see {_log(step)}"


def _show(dataset, futures):
    """Show a table of the runs until all are done: live on a terminal, else a line whenever a run ends."""
    began = time.monotonic()
    console = Console(stderr=True)
    told = set()
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            table = Table("run", "state", "ETA", title=f"{dataset}: {_minutes(time.monotonic() - began)}")
            for name, future in futures.items():
                state, eta = _state(dataset, name, future)
                table.add_row(name, state, eta)
                if future.done() and name not in told:
                    told.add(name)
                    if live is None:
                        logger.info("%s: %s (%d of %d)", name, state, len(told), len(futures))
            if live:
                live.update(table, refresh=True)
            if len(told) == len(futures):
                return
            time.sleep(REFRESH_SECONDS)


def _state(dataset, name, future):
    if future.done():
        return (_reason(dataset, name, future.result()) if future.result() else "done"), ""
    if not future.running():
        return "queued", ""
    known = status.read(dataset, name)
    if known is None or known.state != "running":
        return "starting", ""
    return known.describe(), "" if known.eta is None else _minutes(known.eta)


def _minutes(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
