"""What the chosen runs would cost before they are started: training time, wall time on N GPUs, disk.

Throughput is measured where a run of the same method and backbone has been trained with the same profile on this
machine, or given; it is never assumed.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import heapq
import math
import sys
from dataclasses import dataclass

import mmcv
from mmdet.models import build_detector
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from pipeline import methods
from pipeline.artifacts import attempts, files, paths
from pipeline.declaration import config, experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import measured

BYTES = 4  # of a parameter
STATES_KEPT = 2  # while a run trains: model and optimiser, which holds at most two numbers per parameter


@dataclass(frozen=True)
class Item:
    """One run of the plan, or its labels of the training images, `label@RUN`.

    Attributes:
        name, seeds: the run and how many seeds it has.
        state: 'done', '1 of 3 seeds done', or what stands in the way: 'not run', 'interrupted at ...', 'failed: ...'.
        images: training images it draws, all seeds and repetitions; of labels, views of images.
        hours: GPU-hours (CPU-hours without one) still to compute; 0 if done, None if the throughput is unknown.
        pace: where the throughput behind `hours` is from: 'measured here', 'as training' (of labels, that of a training
            of the same method and backbone), 'given', 'unknown'.
        checkpoint_bytes: size of its checkpoints.
    """

    name: str
    seeds: int
    state: str
    images: int
    hours: float | None
    pace: str
    checkpoint_bytes: int


def plan(dataset, images_per_second=None):
    """Cost of every run of selection.yaml on a dataset, and of labelling images with those that others train on.

    Args:
        images_per_second: throughput of one GPU for runs without a measured one.

    Returns:
        [Item], in the order of the declaration.
    """
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise ExperimentError(f"--images-per-second {images_per_second:g}; valid: a number above 0")
    declared = experiments.load()
    selection = experiments.selected(declared)
    places = {name: declared.runs[name].on(dataset) for name in experiments.runs_chosen(selection)}
    known = {place: throughputs(place, declared) for place in set(places.values())}
    items = [_item(name, place, declared, known[place], images_per_second) for name, place in places.items()]
    labelling = ((name, places[name]) for name in experiments.runs_labelling(selection))
    return items + [_labels(name, place, declared, known[place], images_per_second) for name, place in labelling]


def _item(name, dataset, declared, known, given):
    run = declared.runs[name]
    seeds = config.load_knobs(run).seeds
    job = config.resolve(name, dataset, seeds[0], declared)
    images = images_drawn(job, training_images(dataset, declared)) * len(seeds)
    result = measured.result(dataset, run)
    missing = [seed for seed in seeds if result is None or seed not in result.seeds]
    per_second, pace = _pace(given, {"measured here": known.get((run.method, run.backbone))})
    left = images * len(missing) / len(seeds)
    if result is None:
        state = measured.state(dataset, run)
    else:
        state = "done" if not missing else f"{len(seeds) - len(missing)} of {len(seeds)} seeds done"
    return Item(
        name,
        len(seeds),
        state,
        images,
        _hours(left, per_second),
        pace,
        parameters(job) * BYTES * len(seeds),
    )


def _labels(name, dataset, declared, known, given):
    """The item of labelling the training images with a run."""
    run, called = declared.runs[name], attempts.labelling(name)
    seeds = config.load_knobs(run).seeds
    views = len(config.resolve(name, dataset, seeds[0], declared).data.get("label", [None]))
    seen = training_images(dataset, declared) * views
    missing = [seed for seed in seeds if not paths.label_index(dataset, name, seed).exists()]
    trained = known.get((run.method, run.backbone))
    labelled = known.get((run.method, run.backbone, "label"))
    per_second, pace = _pace(given, {"measured here": labelled and labelled * views, "as training": trained})
    latest = attempts.read(dataset, called)
    state = "done" if not missing else latest.describe() if latest else "not run"
    return Item(called, len(seeds), state, seen * len(seeds), _hours(seen * len(missing), per_second), pace, 0)


def _pace(given, known):
    """Images per second, and where that is from."""
    for source, per_second in (known | {"given": given}).items():
        if per_second:
            return per_second, source
    return None, "unknown"


def _hours(images, per_second):
    """For a number of images; None if it is not known."""
    return 0.0 if not images else images / per_second / 3600 if per_second else None


def training_images(dataset, declared):
    """Number of training images: from the manifest if the dataset is here, else as declared.

    Raises ExperimentError if neither says it.
    """
    entry = declared.dataset(dataset)
    if paths.manifest(dataset).exists():
        try:
            return int(files.read_json(paths.manifest(dataset))["subsets"][entry["train"]]["images"])
        except (KeyError, TypeError, ValueError):
            where = paths.manifest(dataset).relative_to(paths.ROOT)
            raise ExperimentError(f"{where}: damaged; remove it and run `python -m stages.download`") from None
    if "train_images" not in entry:
        raise ExperimentError(
            f"pipeline/experiments/datasets.yaml: datasets.{dataset}: how many training images is unknown; run "
            "`python -m stages.download` or declare `train_images`"
        )
    return entry["train_images"]


def images_drawn(job, images):
    """Images a training draws, repetitions counted: its steps times its batch."""
    batch = job.data["batch_size"]
    steps = job.schedule["iterations"] if "iterations" in job.schedule else job.schedule["epochs"] * -(-images // batch)
    return steps * batch


def throughputs(dataset, declared):
    """{(method, backbone): images per second and GPU} of trainings with this dataset's profile on this machine, and
    {(method, backbone, "label"): the same} of labelling images."""
    profile = declared.dataset(dataset)["profile"]
    found = {}
    for other, entry in declared.datasets.items():
        for name, run in declared.runs.items():
            known = attempts.read(other, name) if entry["profile"] == profile else None
            if known and known.seconds and known.iteration:
                batch = declared.profiles[profile]["training"]["batch_size"]
                found[run.method, run.backbone] = known.iteration * batch / known.seconds / known.processes
            known = attempts.read(other, attempts.labelling(name)) if entry["profile"] == profile else None
            if known and known.seconds and known.iteration:
                found[run.method, run.backbone, "label"] = known.iteration / known.seconds
    return found


def parameters(job):
    """Number of parameters and buffers of a training's model."""
    methods.register(job.method, job.knobs)
    model = build_detector(mmcv.ConfigDict(job.model))
    return sum(tensor.numel() for tensor in model.state_dict().values())


def wall_hours(items, gpus):
    """Hours until the last run ends if each takes one GPU and the longest go first; None if one is unknown."""
    if any(item.hours is None for item in items):
        return None
    busy = [0.0] * gpus
    for hours in sorted((item.hours for item in items), reverse=True):
        heapq.heappush(busy, heapq.heappop(busy) + hours)
    return max(busy)


def _run(item, declared):
    return declared.runs[item.name.rpartition("@")[2]]


def disk_bytes(items, dataset, declared, gpus):
    """{what: bytes} that the plan needs: archives and images, checkpoints, and the resumable states at their peak."""
    entries = (declared.dataset(name) for name in {dataset, *(_run(item, declared).on(dataset) for item in items)})
    archives = sum(archive["bytes"] for entry in entries for archive in entry.get("archives", {}).values())
    largest = sorted((item.checkpoint_bytes // item.seeds for item in items if item.hours != 0), reverse=True)[:gpus]
    return {
        "archives": archives,
        "unpacked images and annotations, about": archives,
        "checkpoints": sum(item.checkpoint_bytes for item in items),
        "resumable states while training, at most": 3 * STATES_KEPT * sum(largest),
    }


def show(dataset, gpus, images_per_second=None):
    """Print the plan for a number of GPUs. Raises ExperimentError for numbers that cannot be."""
    if gpus < 1:
        raise ExperimentError(f"--gpus {gpus}; valid: 1 or more")
    declared = experiments.load()
    items = plan(dataset, images_per_second)
    columns = (Column("run", overflow="fold"), "state", "seeds", "images", "GPU-hours", "throughput", "checkpoint")
    table = Table(*columns, title=f"dataset {dataset}")
    for item in items:
        hours = "unknown" if item.hours is None else f"{item.hours:.2f}"
        numbers = (str(item.seeds), f"{item.images:,}", hours, item.pace, decimal(item.checkpoint_bytes))
        table.add_row(item.name, item.state, *numbers)
    console = Console(width=None if sys.stdout.isatty() else 200)  # a file or a pipe has room for whole lines
    console.print(table)
    runs = [item for item in items if item.name in declared.runs]
    console.print(f"{sum(item.hours == 0 for item in runs)} of {len(runs)} runs done")
    if (wall := wall_hours(items, gpus)) is None:
        console.print("training time unknown: train one run here first, or give --images-per-second")
    else:
        what = "training" if len(runs) == len(items) else "training and labelling"
        console.print(f"{sum(item.hours for item in items):.2f} GPU-hours of {what}, {wall:.2f} hours on {gpus} GPUs")
    for what, size in disk_bytes(items, dataset, declared, gpus).items():
        console.print(f"disk, {what}: {decimal(size)}")
