"""Make every chosen run, several at a time, then the report: DVC does each target, this module only orders them.

A run is one process `dvc repro --single-item train@RUN evaluate@RUN`, on this machine or as a job of a cluster
(`pipeline.launching.launchers`). DVC keeps what is up to date, the scratch state of a training continues what
was interrupted, so launching again is always safe.
"""

import contextlib
import logging
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline import methods
from pipeline.artifacts import attempts, files, locks, paths
from pipeline.declaration import config, experiments
from pipeline.errors import ExperimentError
from pipeline.launching import costs, launchers, settings
from pipeline.launching.launchers import Target
from pipeline.launching.launchers.local import Local
from pipeline.launching.launchers.slurm import Slurm

logger = logging.getLogger("pipeline.launching.launch")

LAUNCHERS = {"local": Local, "slurm": Slurm}
STAGES_WORTH_A_COMMAND = 2  # of the report: DVC takes about as long to start as one of them
KINDS = ("failed", "running", "queued", "done")  # of State, what one looks for first


def launch(jobs=None, launcher=None):
    """Train and evaluate the runs of selection.yaml, then build headline, tables, figures and report.

    A run that fails does not stop the others; the report is built from what there is and says what is missing.

    Args:
        jobs: trainings at a time, at least 1; None: as machine.yaml or the launcher says.
        launcher: 'local' or 'slurm'; None: as machine.yaml says, 'local' without it.

    Raises:
        ExperimentError: a bad machine.yaml, no chosen table has a run on the dataset, data or splits could not be made,
            or (after the report) runs failed; names them.
    """
    if jobs is not None and jobs < 1:
        raise ExperimentError(f"--jobs {jobs}; valid: 1 or more")
    machine = settings.load()
    dataset = experiments.chosen_dataset()
    selection = experiments.selected()
    if not selection["tables"]:
        raise ExperimentError(
            f"no run of {', '.join(selection['chosen'])} has a direction of dataset {dataset!r} "
            f"({', '.join(selection['directions'])}); choose other tables or declare such runs"
        )
    targets = _targets(selection, dataset, machine)
    kind = LAUNCHERS[launcher or machine.launcher]
    chosen = kind(machine, jobs or machine.jobs, dataset, targets)
    with contextlib.nullcontext() if kind.detached else _alone():
        _launch(chosen, selection, dataset)


def _launch(chosen, selection, dataset):
    """Do the targets of a launcher, and what comes before and after them."""
    launchers.children.ending.clear()
    changed = _changed_by_recipes()
    if not changed and not _incomplete().exists():
        logger.info("data, runs and report are up to date")
        return
    if (first := _first(changed, chosen.here, selection)) and launchers.dvc(*first, echo=True):
        raise ExperimentError("data or splits could not be made, see above; nothing was trained")
    places = {target.name: target.dataset for target in chosen.targets}
    try:
        chosen.start()
        states = _show(dataset, places, chosen)
    except BaseException as error:
        if not chosen.detached:
            logger.info("ending: trainings save their state (Ctrl-C once more ends them without)")
            chosen.stop()
        if not (chosen.detached and isinstance(error, KeyboardInterrupt)):
            raise
        raise ExperimentError(
            "the watching ended, the jobs go on; the same command watches them again, `scancel` ends them"
        ) from None
    runs = experiments.runs_chosen(selection)
    failed = {name: states[name] for name in runs if states[name].state == "failed"}
    if chosen.detached:  # its last job has built the report
        wrong = states["report"].state == "failed" and _reason(places, "report", states["report"])
    else:
        wrong = _report({name: state.stage for name, state in failed.items()}, selection) and "see above"
    if failed:
        words = "; ".join(f"{name} ({_reason(places, name, state)})" for name, state in failed.items())
        raise ExperimentError(f"{len(failed)} of {len(runs)} runs have no result: {words}")
    if wrong:
        raise ExperimentError(f"the report could not be built completely: {wrong}")


def _changed_by_recipes():
    """The changed stages once the recipes are of today: before that, DVC knows of no training that they change."""
    changed = launchers.changed_stages()
    recipes = [stage for stage in changed if _group(stage) == "recipes"]
    if not recipes:
        return changed
    if launchers.dvc(*sorted(recipes), single=True, echo=True):
        raise ExperimentError("the recipes could not be made, see above; nothing was trained")
    return launchers.changed_stages()


@contextlib.contextmanager
def _alone():
    """Hold the lock of the launches on this machine in this working copy, or say which process has it."""
    path = paths.launch_log("launch").with_suffix(".lock")
    holder = path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = locks.lock_file(path)
    if not locks.take(lock, "the launch", seconds=1):
        other = files.read_json(holder) or {}
        who = f"process {other.get('pid')} on {other.get('host')}, since {other.get('since')}"
        remedy = f"wait for it, or end it with `kill {other.get('pid')}` (trainings save their state)"
        raise ExperimentError(f"a launch runs in this working copy already ({who}); {remedy}")
    try:
        since = time.strftime("%F %T")
        files.write_json(holder, {"pid": os.getpid(), "host": os.uname().nodename, "since": since})
        yield
    finally:
        lock.release()


def report():
    """Build the report from what there is and start nothing else: what the last job on a cluster does.

    Raises:
        ExperimentError: it could not be built completely.
    """
    dataset, selection = experiments.chosen_dataset(), experiments.selected()
    changed = launchers.changed_stages()
    runs = experiments.runs_chosen(selection)
    failed = {name: stage for name in runs for stage in _stages(name, selection)[::-1] if stage in changed}
    for name in failed:
        attempts.settle(runs[name].get("dataset", dataset), name)
    if _report(failed, selection):
        raise ExperimentError("the report could not be built completely: see above")


def _stages(run, selection):
    """The DVC stages of a run, in their order."""
    return experiments.target("train", run, selection), experiments.target("evaluate", run, selection)


def _targets(selection, dataset, settings):
    """All targets: initial weights, then runs, those that take longest first: none is left alone at the end.

    A run that labels images stands before its labels, and these before the runs that train on them.
    """
    declared, runs = experiments.load(), experiments.runs_chosen(selection)
    weights = {(dataset, name): f"pretrain@{name}" for name in selection["weights"]}
    weights |= {
        (row["dataset"], row["key"]): f"pretrain_elsewhere@{name}"
        for name, row in selection["elsewhere"]["weights"].items()
    }

    def place(name):
        return runs[name].get("dataset", dataset)

    names = sorted(runs, key=lambda name: (_generation(declared, name), -_length(declared, name, place(name))))
    twins = _twins(declared, {name: place(name) for name in names})
    found = [Target(stage, (stage,), dataset=at) for (at, _), stage in weights.items()]
    labelling = experiments.runs_labelling(selection)
    for name in names:
        labels = declared.runs[name].labels
        after = (weights[place(name), runs[name]["weights"]], *([attempts.labelling(labels)] if labels else []))
        size = settings.size(name)
        found.append(Target(name, _stages(name, selection), after, twins.get(name), *size, dataset=place(name)))
        if name in labelling:
            stage = experiments.target("label", name, selection)
            found.append(Target(attempts.labelling(name), (stage,), (name,), dataset=place(name)))
    return found


def _generation(declared, run):
    """How many runs label images one after the other before a run trains."""
    labels = declared.run(run).labels
    return 1 + _generation(declared, labels) if labels else 0


def _length(declared, run, dataset):
    """How long the training of a run takes, all seeds, among those of one backbone and data set."""
    row = declared.run(run)
    schedule = declared.profile(dataset)["schedules"][row.schedule]
    steps = schedule.get("epochs", schedule.get("iterations"))
    return steps * methods.method(row.method).cost * len(config.load_knobs(row).seeds)


def _twins(declared, places):
    """{run: one before it whose trainings are the same}, such as the free run at the pinned values.

    Both at a time would have one of them wait for the other, in the place of a third.

    Args:
        places: run -> dataset that it is made on.
    """
    first, twins = {}, {}
    for name, dataset in places.items():
        seeds = config.load_knobs(declared.run(name)).seeds
        training = config.resolve(name, dataset, seeds[0], declared)
        same = repr((dataset, training.method, training.initial_weights, seeds, training.numbers()))
        if first.setdefault(same, name) != name:
            twins[name] = first[same]
    return twins


def _group(stage):
    """What a stage does, wherever its data are: `train` of `train_elsewhere@RUN`."""
    return stage.partition("@")[0].removesuffix("_elsewhere")


def _first(changed, here, selection):
    """Stages to make before targets; none if they are as they should be, for a training that runs has them open."""
    needed = any(_group(stage) in ("download", "split", "split_task", "priors") for stage in changed)
    data = ["download", "split"] if needed else []
    if needed and selection["splits"]:
        data.append("split_task")
    if needed and selection["priors"]:
        data.append("priors")
    if needed and selection["elsewhere"]["datasets"]:
        data += ["download_elsewhere", "split_elsewhere"]
        data += ["split_task_elsewhere"] if selection["elsewhere"]["splits"] else []
        data += ["priors_elsewhere"] if selection["elsewhere"]["priors"] else []
    return data + [stage for stage in here if data or stage in changed]


def _incomplete():
    """A file that is there while the last report is not one of complete runs."""
    return paths.launch_log("incomplete")


def _report(failed, selection):
    """Build the report from what there is. Returns the exit status."""
    looked_into = [*selection["look_inside"], *selection["elsewhere"]["look_inside"]]
    stages = [experiments.target("look_inside", name, selection) for name in looked_into if name not in failed]
    stages += [f"headline@{name}" for name in selection["free"] if name not in failed]
    stages += [f"tables@{name}" for name in selection["tables"]]
    figures = [f"figures@{name}" for name in selection["figures"]]
    # A failure changes what the report says, and so does its end, but neither changes a file that DVC compares.
    marker = _incomplete()
    again = bool(failed) or marker.exists()
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    wrong = _side_by_side(stages, again) or _side_by_side(figures, again) or _side_by_side(["report"], again)
    if not failed and not wrong:
        marker.unlink()
    return wrong


def _side_by_side(stages, force):
    """Make stages that need nothing of one another, with a DVC command for each core. Returns an exit status."""
    hands = min(len(os.sched_getaffinity(0)), -(-len(stages) // STAGES_WORTH_A_COMMAND))
    shares = [stages[first::hands] for first in range(hands)]
    with ThreadPoolExecutor(max_workers=hands or 1) as pool:
        made = [pool.submit(launchers.dvc, *share, single=True, force=force, echo=True) for share in shares]
        try:
            ended = [each.result() for each in made]
        except BaseException:  # asked to end: nobody else tells them
            launchers.children.end()
            raise
    return next(filter(None, ended), 0)  # of one that was killed it is negative


def _reason(places, name, state):
    """Why a target failed: what its launcher says of it, else its own last words, else where to look."""
    if state.note:
        return state.note
    known = attempts.read(places[name], name) if places[name] else None
    if known and known.state == "failed" and state.stage.endswith(f"@{name.removeprefix('label@')}"):
        return known.describe()
    return f"{state.stage} failed, see {launchers.log(state.stage)}"


def _show(dataset, places, launcher):
    """Show a table of the targets until all are over: live on a terminal, else a line for each. Returns their State.

    Args:
        dataset: the chosen one.
        places: target -> dataset that it is made on.
    """
    began = time.monotonic()
    console = Console(stderr=True)
    told = set()
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            states = launcher.states()
            count = Counter(state.state for state in states.values())
            counts = ", ".join(f"{count[kind]} {kind}" for kind in KINDS if count[kind])
            table = Table("run", "state", "ETA", title=f"{dataset}, {_minutes(time.monotonic() - began)}: {counts}")
            # A terminal may be too short for all rows: those at the end are cut.
            for name, state in sorted(states.items(), key=lambda item: KINDS.index(item[1].state)):
                words, eta = _describe(places, name, state)
                table.add_row(name, words, eta)
                if state.over and name not in told:
                    told.add(name)
                    if live is None:
                        logger.info("%s: %s%s (%d of %d)", name, words, _cost(launcher, name), len(told), len(states))
            if live:
                live.update(table, refresh=True)
            if all(state.over for state in states.values()):
                return states
            time.sleep(launcher.REFRESH_SECONDS)


def _cost(launcher, name):
    """What a target has cost so far, where it runs on this machine."""
    target = next(target for target in launcher.targets if target.name == name)
    seconds = costs.read().get(target.stages[0]) if not launcher.detached else None
    return "" if seconds is None else f", {seconds / 60:.1f} core-minutes"


def _describe(places, name, state):
    """A few words on a target, and how long its training still takes."""
    if state.over:
        return ("done" if state.state == "done" else _reason(places, name, state)), ""
    known = attempts.read(places[name], name) if places[name] else None
    begun = known if known and known.state in ("running", "interrupted") else None  # which of them, the launcher knows
    if state.state == "running":
        eta = begun.eta if begun else None
        words = replace(begun, state="running").describe() if begun else "running"
        return words, "" if eta is None else _minutes(eta)
    words = f"queued ({state.note})" if state.note else "queued"
    if begun and begun.iteration:
        words += f", goes on after iteration {begun.iteration} of {begun.of}"
    return words, ""


def _minutes(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
