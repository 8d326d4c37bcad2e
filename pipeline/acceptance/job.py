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
from pipeline.tasks.instances.split import split
from pipeline.training import loop

DATASET = "generated"
PRESETS = ("paper", "released")
STEPS = 3
# What `shrunk` replaces, beside all of the schedule.
DATA = {"batch_size": 2, "images_per_gpu": 2}
OPTIMISATION = {"warmup_iterations": 1, "log_interval": 1, "checkpoint_interval": STEPS}


def draw_inputs(declared):
    """Draw a few images, their splits, what methods learn from those beforehand, and random initial weights, below
    `paths.ROOT`."""
    entry = declared.dataset(DATASET) | {"train_images": 12, "val_images": 2}
    prepare(DATASET, entry, images_root=paths.images_root(DATASET), out_dir=paths.data(DATASET))
    labels = declared.label_set(DATASET)
    for name in labels.directions:
        split(subsets.train(DATASET).annotations, labels, name, paths.split(DATASET, name))
    runs = _runs(declared).values()
    for method, direction in sorted({(run.method, run.direction) for run in runs if run.priors}):
        out = paths.learnt_priors(DATASET, methods.priors_key(method, direction))
        methods.required(method, "priors").make(DATASET, direction, out)
    keys = dict.fromkeys([*declared.backbones, *(run.weights for run in runs)])
    before = (config.resolve_pretraining(key, DATASET, declared).initial_weights for key in keys)
    for key in filter(None, (*keys, *before)):
        checkpoint.write(paths.initial_weights(DATASET, key), {}, {})


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
        for preset in PRESETS:
            job = f"{run.method}.{preset}"
            if run.pinned and not run.overrides and job not in found:
                found[job] = _resolved(declared, run, {"recipe": preset})
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
    """Those of the first task, whose data set this is; the label maps of others are not compared."""
    return {name: run for name, run in declared.runs.items() if methods.task_of(run.method).name == tasks.FIRST}


def _resolved(declared, run, overrides):
    run = replace(run, overrides={**(run.overrides or {}), **overrides})
    return config.resolve(run.name, DATASET, 0, replace(declared, runs={**declared.runs, run.name: run}))


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
