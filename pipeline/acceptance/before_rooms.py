"""`job` for a tree before recipes: run as a script inside of it, with that tree's modules; and its old fingerprints.

python before_rooms.py train FOLDER [--runs RUN...]
python before_rooms.py fingerprints FOLDER HOME
"""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

sys.path[0] = os.getcwd()

from pipeline import config, experiments, paths, training  # noqa: E402
from pipeline.checkpoint import content_of  # noqa: E402
from pipeline.datasets.prepare import prepare  # noqa: E402
from pipeline.datasets.split import split  # noqa: E402

DATASET = "generated"
PRESETS = ("paper", "released")
STEPS = 3


def draw_inputs(declared):
    entry = declared.dataset(DATASET) | {"train_images": 12, "val_images": 2}
    prepare(DATASET, entry, images_root=paths.images_root(DATASET), out_dir=paths.data(DATASET))
    for name in declared.directions:
        annotations = paths.annotations(DATASET, "train2017")
        split(annotations, declared.directions[name], paths.split(DATASET, name))
    for name in declared.backbones:
        path = paths.initial_weights(DATASET, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        training.save_atomically(content_of({}, {}), path)


def shrunk(work):
    return replace(
        work,
        data=work.data | {"batch_size": 2, "images_per_gpu": 2},
        schedule={"iterations": STEPS, "milestones": [STEPS - 1]},
        optimisation=work.optimisation | {"warmup_iterations": 1, "log_interval": 1, "checkpoint_interval": STEPS},
    )


def jobs(declared, named):
    found = {}
    for run in declared.runs.values():
        for preset in PRESETS:
            if run.pinned and not run.overrides:
                found.setdefault(f"{run.method}.{preset}", resolved(declared, run, {"recipe": preset}))
    for name, run in declared.runs.items():
        if {name, "all"} & named or (run.overrides or {}).get("supervision") == "oracle":
            found[name] = resolved(declared, run, {})
    for place, name in enumerate(declared.backbones):
        if place == 0 or {f"init_{name}", "all"} & named:
            found[f"init_{name}"] = config.resolve_pretraining(name, DATASET, declared)
    return found


def resolved(declared, run, overrides):
    run = replace(run, overrides={**(run.overrides or {}), **overrides})
    return config.resolve(run.name, DATASET, 0, replace(declared, runs={**declared.runs, run.name: run}))


def train(folder, named):
    declared = experiments.load()
    draw_inputs(declared)
    for name, work in jobs(declared, named).items():
        scratch = training.train(shrunk(work))
        (folder / name).mkdir(parents=True)
        for file in ("checkpoint.pth", "log.jsonl"):
            shutil.copy(scratch / file, folder / name / file)
        (folder / name / "job.json").write_text(json.dumps({"recipe": None, "code": None}))


def fingerprints(folder, home):
    """Write [(dataset, run, seed, fingerprint)] of what this tree would train on the data of a working copy."""
    declared, code, found = experiments.load(), paths.ROOT, []
    for name in ("split_train", "manifest", "initial_weights"):
        setattr(paths, name, in_home(getattr(paths, name), code, home))
    for dataset in declared.datasets:
        if paths.manifest(dataset).exists():
            for work in trainings(declared, dataset):
                try:
                    found.append((dataset, work.name, work.seed, config.fingerprint(work)))
                except Exception:  # its inputs are not there: nothing to adopt
                    continue
    (folder / "fingerprints.json").write_text(json.dumps(found))


def in_home(function, code, home):
    return lambda *arguments: home / function(*arguments).relative_to(code)


def trainings(declared, dataset):
    if declared.profile(dataset)["initial_weights"]["kind"] == "pretrain":
        yield from (config.resolve_pretraining(name, dataset, declared) for name in declared.backbones)
    for name, run in declared.runs.items():
        yield from (config.resolve(name, dataset, seed, declared) for seed in config.load_knobs(run).seeds)


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(Path(sys.argv[2]), set(sys.argv[4:]))
    else:
        fingerprints(Path(sys.argv[2]), Path(sys.argv[3]))
