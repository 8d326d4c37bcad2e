"""The model behind a name, with what its users need: classes, data steps, and an identity of its numbers."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline import methods, tasks
from pipeline.artifacts import paths
from pipeline.declaration import experiments, recipe, strict
from pipeline.errors import ExperimentError
from pipeline.hardware import use_device
from pipeline.trained import loading

# Kernels that oneDNN keeps compiled, some 0.4 MB each. The embedded model takes 26 an image, of which 10 are for that
# number of objects alone, so that the default of 1024 grows with every number not seen before. A new one costs 0.7 ms.
KERNELS = 128


@dataclass(frozen=True)
class Detector:
    """A detector, or a model of label maps, in evaluation mode, with what is needed to use it.

    Attributes:
        model: MMDetection detector, on `device`.
        device: `cuda` or `cpu`.
        names, ids: of the classes, in the order of labels.
        steps: of the data at test time, an MMDetection pipeline; the first one loads the image.
        title: how messages and `source` call it.
        identity: JSON object of all that its numbers depend on.
        novel: names of the classes that were trained without masks, as far as known.
        dataset: name of the data set that it was trained on, as far as known.
        maps: whether it labels pixels.
    """

    model: object
    device: str
    names: tuple
    ids: tuple
    steps: list
    title: str
    identity: dict
    novel: tuple = ()
    dataset: str | None = None
    maps: bool = False

    def chosen(self, names):
        """Class names that were asked for, all of them for None. Raises ExperimentError for an unknown one."""
        for name in names or ():
            if name not in self.names:
                known = strict.options(name, self.names, typed=True)
                raise ExperimentError(f"{self.title}: unknown class {name!r}{known}")
        return tuple(self.names if names is None else names)


def load(target, seed=None, dataset=None, maps=False):
    """Load the model of a run's seed, or of a checkpoint.

    Args:
        target: name of a declared run, path of a checkpoint, or the folder of a trained run that it lies in.
        seed: of a run; its first one by default.
        dataset: that the run was trained on; the chosen one by default.
        maps: whether one of label maps is welcome.

    Raises:
        ExperimentError: what `loading.load_model` raises, a detector without masks, or one of label maps.
    """
    limit_kernels()
    run = experiments.load().runs.get(str(target))
    task = methods.task_of(run.method).name if run else loading.INSTANCES
    if task == loading.MAPS and not maps:
        raise _of_maps(target)
    device = use_device()
    loaded = loading.load_model(target, dataset, seed, task=task)
    steps = loaded.config.data.test.pipeline
    of_maps = loaded.of_maps
    if of_maps and not maps:
        raise _of_maps(target)
    if not of_maps and (not getattr(loaded.model, "with_mask", False) or not hasattr(loaded.model, "roi_head")):
        raise ExperimentError(f"{target}: a {type(loaded.model).__name__} without a mask head finds boxes alone")
    path, novel = Path(str(target)), ()
    title = "/".join(path.parts[-2:])  # no more: it gets into files that are passed on
    if run:
        training = loading.training_of(target, dataset, seed, task)
        path, title = paths.checkpoint(training.dataset, training.name, training.seed), f"{target} seed {training.seed}"
        novel, dataset = loaded.labels.base_and_novel(training.direction)[1], training.dataset
    elif path.is_dir():
        path /= "checkpoint.pth"
    written = repr((loaded.config.model, list(steps)))
    return Detector(
        model=loaded.model.to(device).eval(),
        device=device,
        names=loaded.labels.names,
        ids=tuple(category.id for category in loaded.labels.categories),
        steps=list(steps),
        title=title,
        identity={
            "weights": _digest(path),
            "settings": hashlib.sha256(written.encode()).hexdigest(),
            "code": hashlib.sha256(repr(sorted(recipe.code_of(_modules(of_maps)).items())).encode()).hexdigest(),
            "versions": recipe.versions(),
            "device": device,
        },
        novel=novel,
        dataset=dataset,
        maps=of_maps,
    )


def limit_kernels():
    """Bound what a CPU's convolutions keep in memory, unless the environment does; before the first convolution."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def _of_maps(target):
    return ExperimentError(
        f"{target}: labels pixels, and `complete` turns boxes into masks, of which label maps have none; run "
        f"`python -m commands.predict {target} IMAGES --out DIR`, which labels pictures"
    )


def _modules(maps):
    """Those that prediction runs, whichever method the model is of."""
    rooms = dict.fromkeys(module for name in methods.names() for module in methods.method(name).modules)
    prediction = tasks.task(loading.MAPS if maps else tasks.FIRST).prediction_modules
    return ("pipeline.inference.loading", *prediction, *rooms)


def _digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
