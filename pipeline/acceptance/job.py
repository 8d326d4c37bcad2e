"""python -m pipeline.acceptance.job FOLDER [--runs RUN...]: train the tiny jobs of this tree and leave them in FOLDER.

A job is a run with 12 drawn images and a few steps. FOLDER/<job>/ gets checkpoint.pth, log.jsonl and job.json, which
says what the run's own training is.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from pipeline import methods, tasks
from pipeline.artifacts import checkpoint, files, paths
from pipeline.cli import command
from pipeline.datasets.prepare import prepare
from pipeline.declaration import config, experiments, recipe, subsets
from pipeline.training import loop

DATASETS = {"instances": "generated", "semantic": "scenes"}  # of each task, drawn
DATASET = DATASETS[tasks.FIRST]
PRESETS = {name: {"recipe": name} for name in ("paper", "released")}
STEPS = 3
# What `shrunk` replaces, beside all of the schedule.
DATA = {"batch_size": 2, "images_per_gpu": 2}
OPTIMISATION = {"warmup_iterations": 1, "log_interval": 1, "checkpoint_interval": STEPS}


def draw_inputs(declared):
    """Draw a few images of each task, their splits, what methods learn from those beforehand, and random initial
    weights, below `paths.ROOT`."""
    for task, dataset in DATASETS.items():
        entry = declared.dataset(dataset) | {"train_images": 12, "val_images": 2}
        prepare(dataset, entry, images_root=paths.images_root(dataset), out_dir=paths.data(dataset))
        for direction in declared.label_set(dataset).directions:
            hide(task, dataset, direction, declared)
    runs = [run for run in _runs(declared).values() if _task(run) == tasks.FIRST]
    for method, direction in sorted({(run.method, run.direction) for run in runs if run.priors}):
        out = paths.learnt_priors(DATASET, methods.priors_key(method, direction))
        methods.required(method, "priors").make(DATASET, direction, out)
    keys = dict.fromkeys([*declared.backbones, *(run.weights for run in runs)])
    before = (config.resolve_pretraining(key, DATASET, declared).initial_weights for key in keys)
    for key in filter(None, (*keys, *before)):
        checkpoint.write(paths.initial_weights(DATASET, key), {}, {})


def hide(task, dataset, direction, declared):
    """Write the training annotations of a direction."""
    folder = paths.split(dataset, tasks.split_of(task, direction))
    labels, annotations = declared.label_set(dataset), subsets.train(dataset).annotations
    tasks.task(task).hide(annotations, labels, direction, folder, None, (dataset, direction))


def shrunk(training):
    """A training of a few steps that logs each."""
    return replace(
        training,
        data=training.data | DATA,
        schedule={"iterations": STEPS, "milestones": [STEPS - 1]},
        optimisation=training.optimisation | OPTIMISATION,
    )


def jobs(declared, named):
    """{job: its training at full length}: of each method under each preset, of code that only another run has; and of
    the named runs and pre-trainings, `all` are every one."""
    found, codes, runs = {}, set(), _runs(declared)
    for run in runs.values():
        has_presets = "recipe" in methods.method(run.method).knobs.model_fields
        for job, overrides in PRESETS.items() if has_presets else (("pinned", {}),):
            job = f"{run.method}.{job}"
            if run.pinned and not run.overrides and job not in found:
                found[job] = _resolved(declared, run, overrides)
                codes.add(_code(found[job]))
    for name, run in runs.items():
        training = _resolved(declared, run, {})
        if {name, "all"} & set(named) or _code(training) not in codes:
            found[name] = training
            codes.add(_code(training))
    for place, name in enumerate(declared.backbones):
        if place == 0 or {f"init_{name}", "all"} & set(named):
            found[f"init_{name}"] = config.resolve_pretraining(name, DATASET, declared)
    return found


def _runs(declared):
    """Those that can be trained on the data that are drawn here: no others' labels of images, and a direction there."""
    return {
        name: run
        for name, run in declared.runs.items()
        if run.labels is None and run.direction in declared.label_set(DATASETS[_task(run)]).directions
    }


def _task(run):
    return methods.task_of(run.method).name


def _resolved(declared, run, overrides):
    run = replace(run, overrides={**(run.overrides or {}), **overrides})
    return config.resolve(run.name, DATASETS[_task(run)], 0, replace(declared, runs={**declared.runs, run.name: run}))


def _code(training):
    return recipe.code_identity(recipe.of_training(training))


def described(training):
    """What identifies a training at full length, and of it what the tiny one replaces."""
    content = recipe.of_training(training)
    return {
        "recipe": recipe.identity(content),
        "code": recipe.code_identity(content),
        "content": content,
        "replaced": {
            "schedule": training.schedule,
            "data": {name: training.data[name] for name in DATA},
            "optimisation": {name: training.optimisation[name] for name in OPTIMISATION},
        },
    }


def train(job, training, folder):
    """Train a job and leave what is compared."""
    scratch = loop.train(shrunk(training))
    (folder / job).mkdir(parents=True)
    for name in ("checkpoint.pth", "log.jsonl"):
        shutil.copy(scratch / name, folder / job / name)
    files.write_json(folder / job / "job.json", described(training))


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", nargs="*", default=())
    args = parser.parse_args()
    declared = experiments.load()
    draw_inputs(declared)
    for job, training in jobs(declared, args.runs).items():
        train(job, training, args.folder)


if __name__ == "__main__":
    main()
