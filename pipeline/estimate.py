"""What to expect of classes without masks: take the masks of classes that have some away, train, and look.

Of a direction's base classes one group after the other is made novel: the training sees their boxes alone, and the
validation masks say what that costs. One more training has all base masks, as a run of the direction has: it gives what
boxes tell of the novel classes, and what the masks that were taken away are worth.
"""

import hashlib
import logging
import random
import shutil
from collections import Counter
from dataclasses import dataclass, replace

from tqdm import tqdm

from pipeline import methods, runs
from pipeline.artifacts import detections, files, locks, paths
from pipeline.datasets.annotations import stream
from pipeline.declaration import config, experiments, recipe, strict, subsets
from pipeline.errors import ExperimentError
from pipeline.tasks import FIRST
from pipeline.tasks.instances import TASK, examples, extents
from pipeline.tasks.instances.split import split
from pipeline.training import initial_weights, loop

logger = logging.getLogger("pipeline.estimate")

FEWEST = 3  # classes that lose their masks: of fewer no interval is worth its name
ALONE = 5  # classes up to which each loses its masks alone, and groups where there are more classes
MASKS = 2  # a class needs to train on, as in `pipeline.own`
EACH = "each"
EVERYTHING = ()  # the group of the training that keeps all base masks


@dataclass(frozen=True)
class Plan:
    """The trainings of an estimate.

    Attributes:
        run: the declared run whose method, size and knobs are taken.
        base, novel: classes of its direction.
        groups: of base classes that lose their masks together; each class of `base` that can is in one.
        measured: novel classes that validation has objects of.
        kept: {base class that keeps its masks always: why}, of those with training objects.
        iterations: as asked for; None for half the schedule of the run.
        seed: of groups and trainings.
    """

    dataset: str
    run: experiments.Run
    base: tuple
    novel: tuple
    groups: tuple
    measured: tuple
    kept: dict
    iterations: int | None
    seed: int


def plan(dataset, method="contrastmask", groups=None, iterations=None, seed=0, sides=None):
    """Choose what loses its masks.

    Args:
        dataset: a declared one that stage download has made.
        method: of a run of that data set.
        groups: how many; EACH: as many as classes; None: that, up to `ALONE`.
        iterations: of a training, in optimiser steps; None for half the schedule.
        seed: of groups and trainings.
        sides: (base, novel) classes instead of those of the run's direction.

    Raises:
        ExperimentError: unknown names, no data, too few classes to take masks from, or no novel class to expect
            something of.
    """
    declared = experiments.load()
    run, labels = run_of(declared, dataset, method), declared.label_set(dataset)
    if iterations is not None and iterations < 1:
        raise ExperimentError(f"--iterations is {iterations}; valid: a whole number from 1 on")
    if not 0 <= seed < 2**32:
        raise ExperimentError(f"--seed is {seed}; valid: a whole number from 0 to {2**32 - 1}")
    base, novel = sides or labels.base_and_novel(run.direction)
    runs.ensure_images(dataset)
    trained, validated = (_objects(part(dataset).annotations, labels) for part in (subsets.train, subsets.validation))
    if not any(trained[0][name] for name in novel):
        raise ExperimentError(
            f"{dataset}: every class has masks, so there is nothing to estimate; see `--novel` of commands.own"
        )
    measured = tuple(name for name in novel if trained[0][name] and validated[0][name])
    if not measured:
        raise ExperimentError(
            f"{dataset}: validation has no object of a novel class, which an AP would be of; add some"
        )
    kept = {name: reason for name in base if trained[0][name] and (reason := _why_kept(name, trained, validated))}
    able = [name for name in base if trained[0][name] and name not in kept]
    if len(able) < FEWEST:
        why = "".join(f"; {name}: {reason}" for name, reason in list(kept.items())[:5])
        raise ExperimentError(
            f"{dataset}: {len(able)} base classes can lose their masks for a try ({', '.join(able) or 'none'}), "
            f"at least {FEWEST} are needed: with {MASKS} masks to train on, and a mask for each validation object{why}"
        )
    parted = grouped(able, groups, seed)
    return Plan(dataset, run, base, novel, parted, measured, kept, iterations, seed)


def run_of(declared, dataset, method):
    """The run whose method, size and knobs are taken: the first one of the data set itself, else of any.

    Raises ExperimentError if there is none.
    """
    labels = declared.label_set(dataset)
    if methods.method(method).task != FIRST:
        raise ExperimentError(f"method {method} does not predict masks of instances, which an estimate is of")
    here = [run for run in declared.runs.values() if run.pinned and run.on(dataset) == dataset]
    here = [run for run in here if run.direction in labels.directions]
    fit = [run for run in here if run.method == method]
    if not fit:
        others = sorted({run.method for run in here})
        raise ExperimentError(f"no run of method {method!r} is made on {dataset}{strict.options(method, others)}")
    return min(fit, key=lambda run: run.dataset is None)


def grouped(names, groups, seed):
    """Part classes into groups of sizes that differ by one at most, by lot.

    Args:
        names: of the classes.
        groups: how many; EACH: as many as classes; None: that, up to `ALONE`.
        seed: of the lot.

    Raises ExperimentError for a number that is none.
    """
    if groups is None:
        groups = min(len(names), ALONE)
    elif groups == EACH:
        groups = len(names)
    elif not 2 <= groups <= len(names):
        raise ExperimentError(
            f"--groups is {groups}; valid: 2 to {len(names)}, the number of base classes that can lose masks"
        )
    drawn = sorted(names)
    random.Random(seed).shuffle(drawn)
    return tuple(tuple(sorted(drawn[k::groups])) for k in range(groups))


def _objects(path, labels):
    """Two counters by class name: objects without crowds, and those of them that have a mask."""
    names = {category.id: category.name for category in labels.categories}
    objects, masks = Counter(), Counter()

    def add(section, _position, entries, _again):
        if section == "annotations":
            for annotation in entries:
                if not annotation.get("iscrowd"):
                    objects[names[annotation["category_id"]]] += 1
                    masks[names[annotation["category_id"]]] += bool(annotation.get("segmentation"))

    stream(path, add)
    return objects, masks


def _why_kept(name, trained, validated):
    """Why a base class keeps its masks; None if it can lose them."""
    if trained[1][name] < MASKS:
        return f"{trained[1][name]} masks to train on"
    if not validated[0][name]:
        return "no validation object"
    if lacking := validated[0][name] - validated[1][name]:
        return f"{lacking} of {validated[0][name]} validation objects have no mask"
    return None


def shortened(schedule, iterations=None):
    """A schedule of another length: milestones, and the passes it stands for, in proportion.

    Args:
        schedule: {epochs | iterations, milestones}, see `config.Training`.
        iterations: None for half of it.

    Returns:
        The new one, and its length in words.
    """
    unit = "epochs" if "epochs" in schedule else "iterations"
    full = schedule[unit]
    kind, length = (unit, max(1, full // 2)) if iterations is None else ("iterations", iterations)
    steps = sorted({step for each in schedule["milestones"] if 0 < (step := round(each * length / full)) < length})
    passes = schedule.get("stands_for", full if unit == "epochs" else None)
    changed = {kind: length, "milestones": steps} | ({"stands_for": passes} if passes else {})
    if (kind, length) == (unit, full):
        words = f"{full} {unit}, the whole schedule"
    elif kind == unit and length < full:
        words = f"{length} of the {full} {unit} of the schedule"
    else:
        words = f"{length} {kind} (the schedule has {full} {unit})"
    return changed, words


def length_of(plan):
    """How long the trainings of a plan are, in words."""
    profile = experiments.load().profile(plan.dataset)
    return shortened(profile["schedules"][plan.run.schedule], plan.iterations)[1]


def job_of(plan, group):
    """The `config.Training` in which a group of base classes has no masks (`EVERYTHING`: none loses them)."""
    digest = hashlib.sha256(repr((sorted(plan.base), sorted(plan.novel), sorted(group))).encode()).hexdigest()
    name = f"estimate_{digest[:12]}"
    declared = experiments.load()
    declared.runs[name] = replace(plan.run, name=name, direction=name, dataset=plan.dataset)
    job = config.resolve(name, plan.dataset, plan.seed, declared)
    return replace(job, schedule=shortened(job.schedule, plan.iterations)[0])


def measure(plan):
    """Train, predict and score each group of a plan; what is there already is reused.

    Returns:
        {group: {class name: {"mask", "box": AP in percent or None, "objects", "found", "extent", "projection": see
        `extents.measure`}}}, of all classes that validation has objects of; the first group is `EVERYTHING`.

    Raises:
        ExperimentError: as a training; Interrupted, too. What is finished is kept.
    """
    parts = folder(plan.dataset) / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    with locks.hold(parts / "lock", f"the estimate of {plan.dataset}"):
        return _measured(plan)


def _measured(plan):
    labels = experiments.load().label_set(plan.dataset)
    jobs = {group: job_of(plan, group) for group in (EVERYTHING, *plan.groups)}
    for group, job in jobs.items():
        without = tuple(name for name in plan.base if name not in group)
        sides = {"base": list(without), "novel": [*plan.novel, *group]}
        split(subsets.train(plan.dataset).annotations, labels, sides, paths.split(plan.dataset, job.split))
    _require_weights(plan)
    kept = {group: _kept(job) for group, job in jobs.items()}
    done = {group: found for group, found in kept.items() if found is not None}
    if done:
        logger.info("%d of %d trainings are there and reused", len(done), len(jobs))
    with tqdm(total=len(jobs), initial=len(done), desc=f"estimate {plan.dataset}", unit="training") as progress:
        for group, job in jobs.items():
            if group not in done:
                progress.set_postfix_str(f"without masks: {', '.join(group) or 'novel classes alone'}"[:60])
                done[group] = _measure(job)
                progress.update()
    return {group: done[group] for group in jobs}


def _require_weights(plan):
    """Make the initial weights that trainings start from, as stage pretrain does, if they are not there."""
    declared, key = experiments.load(), plan.run.weights
    source = declared.profile(plan.dataset)["initial_weights"]
    if source["kind"] == "random" or paths.initial_weights(plan.dataset, key).exists():
        return
    direction = source.get("direction")
    if direction and not paths.split_train(plan.dataset, direction).exists():
        whole, labels = subsets.train(plan.dataset).annotations, declared.label_set(plan.dataset)
        split(whole, labels, direction, paths.split(plan.dataset, direction))
    initial_weights.prepare(key, plan.dataset)


def folder(dataset):
    """Where an estimate is written."""
    return paths.reports(dataset) / "estimate"


def _part(job):
    return folder(job.dataset) / "parts" / f"{recipe.fingerprint(job)}.json"


def _identity(job):
    """All that the numbers of a training depend on."""
    digest = hashlib.sha256(subsets.validation(job.dataset).annotations.read_bytes()).hexdigest()
    return [recipe.fingerprint(job), recipe.identity(recipe.of_evaluation(job)), digest]


def _kept(job):
    """The numbers of a training that an earlier call left, None without any of today's."""
    content = files.read_json(_part(job))
    return content["classes"] if content and content.get("identity") == _identity(job) else None


def _measure(job):
    """Train, predict and score, and keep the numbers, as `measure` returns them of a group."""
    scratch = loop.train(job)
    copies = paths.run(job.dataset, job.name), paths.logs(job.dataset, job.name)
    predictions = paths.predictions(job.dataset, job.name, job.seed)
    try:
        loop.publish(scratch, job.dataset, job.name, job.seed)
        TASK.predict(job, predictions)
        per_category = TASK.score(job.dataset, predictions, {})["per_category"]
        classes = extents.measure(examples.load_ground_truth(job.dataset), predictions)
    finally:  # what is published lies in the training's own folder, too
        for path in (*copies, predictions.parent):
            shutil.rmtree(path, ignore_errors=True)
    for row in per_category:
        if row["metric"] == TASK.category_metrics[0].key and row["category"] in classes:
            classes[row["category"]][TASK.kinds[row["kind"]]] = row["value"]
    files.write_json(_part(job), {"identity": _identity(job), "schedule": job.schedule, "classes": classes})
    detections.forget(scratch.name)
    return classes
