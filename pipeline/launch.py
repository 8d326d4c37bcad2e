"""Make every chosen run, several at a time, then the report: DVC does each step, this module only orders them.

A run is one process `dvc repro --single-item train@RUN evaluate@RUN`. DVC keeps what is up to date, the scratch state
of a training continues what was interrupted, so launching again is always safe.
"""

import logging
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline import experiments, paths, status
from pipeline.errors import ExperimentError

logger = logging.getLogger("pipeline.launch")

REFRESH_SECONDS = 5


def launch(jobs, dataset=None):
    """Train and evaluate the runs of selection.yaml, `jobs` at a time, then build headline, tables, figures and report.

    A run that fails does not stop the others; the report is built from what there is and says what is missing.

    Args:
        jobs: processes at a time, at least 1.

    Raises:
        ExperimentError: data or splits could not be made, or (after the report) runs failed; names them.
    """
    if jobs < 1:
        raise ExperimentError(f"--jobs {jobs}; valid: 1 or more")
    dataset = dataset or experiments.chosen_dataset()
    selection = experiments.selected()
    if _dvc("download", "split", echo=True):
        raise ExperimentError("data or splits could not be made, see above; nothing was trained")
    with ThreadPoolExecutor(jobs) as pool:
        weights = {name: pool.submit(_dvc, f"pretrain@{name}", single=True) for name in selection["backbones"]}
        runs = {}
        for name in _longest_first(selection["runs"], dataset):
            runs[name] = pool.submit(_make, name, weights[selection["runs"][name]["backbone"]])
        _show(dataset, runs)
    failed = [name for name, future in runs.items() if future.result()]
    report = ["headline"] * ("current" not in failed) + ["tables", "figures", "report"]
    # a failure changes what the report says, but no file that DVC compares
    wrong = _dvc(*report, single=True, force=bool(failed), echo=True)
    if failed:
        words = "; ".join(f"{name} ({_words(dataset, name, failed=True)})" for name in failed)
        raise ExperimentError(f"{len(failed)} of {len(runs)} runs have no result: {words}")
    if wrong:
        raise ExperimentError("the report could not be built completely, see above")


def _longest_first(runs, dataset):
    """Names of runs, those with the longest schedule first, so that no long one is left alone at the end."""
    schedules = experiments.load().profile(dataset)["schedules"]

    def length(name):
        schedule = schedules[runs[name]["schedule"]]
        return schedule.get("epochs", schedule.get("iterations"))

    return sorted(runs, key=lambda name: -length(name))


def _make(name, weights):
    """Train and evaluate one run once its initial weights are there. Returns the exit status."""
    return weights.result() or _dvc(f"train@{name}", f"evaluate@{name}", single=True)


def _dvc(*targets, single=False, force=False, echo=False):
    """Run `dvc repro` on targets; its output goes to a log of its own unless it is echoed. Returns the exit status."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro"]
    command += ["--single-item"] * single + ["--force"] * force + list(targets)
    if echo:
        return subprocess.run(command, cwd=paths.ROOT, check=False).returncode
    log = paths.launch_log(targets[0].replace("@", "_"))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.run(command, cwd=paths.ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode


def _words(dataset, name, failed):
    known = status.read(dataset, name)
    if failed and (known is None or known.state != "failed"):
        return f"failed, see {paths.launch_log(f'train_{name}').relative_to(paths.ROOT)}"
    return known.describe() if known else "queued"


def _show(dataset, futures):
    """Show a table of the runs until all are done: live on a terminal, else a line whenever a run ends."""
    began = time.monotonic()
    console = Console(stderr=True)
    told = set()
    with Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else _Quiet() as live:
        while True:
            table = Table("run", "state", "ETA", title=f"{dataset}: {_minutes(time.monotonic() - began)}")
            for name, future in futures.items():
                state, eta = _state(dataset, name, future)
                table.add_row(name, state, eta)
                if future.done() and name not in told:
                    told.add(name)
                    if not console.is_terminal:
                        logger.info("%s: %s (%d of %d)", name, state, len(told), len(futures))
            live.update(table, refresh=True)
            if len(told) == len(futures):
                return
            time.sleep(REFRESH_SECONDS)


class _Quiet:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, *args, **kwargs):
        pass


def _state(dataset, name, future):
    if future.done():
        return (_words(dataset, name, failed=True) if future.result() else "done"), ""
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
