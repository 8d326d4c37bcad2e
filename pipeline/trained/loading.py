"""Load a trained detector, of a run or of a file, ready to detect."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import importlib
import logging
import re
from pathlib import Path
from typing import NamedTuple

import mmcv
import torch
from mmdet.models import build_detector
from torch import nn

from pipeline import methods, tasks
from pipeline.artifacts import checkpoint as checkpoints
from pipeline.artifacts import paths
from pipeline.declaration import config as configs
from pipeline.declaration import experiments, label_sets, strict
from pipeline.declaration.label_sets import Category, LabelSet
from pipeline.errors import ExperimentError
from pipeline.trained import reading

logger = logging.getLogger("pipeline.trained.loading")

INSTANCES, MAPS = "instances", "semantic"  # tasks
COCO = "coco"  # label set of files that name no class, if they have as many
# Profile whose images checkpoints of others were trained on, by their label set; of others that of their task.
FULL_SIZE = {COCO: "full", "coco_stuff": "full_maps", "ade20k": "full_maps_ade"}
BY_TASK = {INSTANCES: "full", MAPS: "full_maps"}


class Loaded(NamedTuple):
    """A detector and what it detects.

    Attributes:
        model: in eval mode, on the CPU, with `CLASSES` and `cfg` as of MMDetection's `init_detector`.
        labels: `LabelSet`: a label is a position in its categories. Of classes that no file of label sets has, it is
            made up: ids from 1, no directions.
        config: `mmcv.Config`; `config.data.test.pipeline` are the steps from a file to the model's input.
    """

    model: nn.Module
    labels: LabelSet
    config: mmcv.Config

    @property
    def of_maps(self):
        """Whether it labels pixels, as the first step of its data tells."""
        return self.config.data.test.pipeline[0]["type"] == "LoadScene"


def load_model(run_or_checkpoint, dataset=None, seed=None, config=None, task=INSTANCES):
    """Load the detector of a trained run, or of a checkpoint: this project's, of released code, or MMDetection's.

    Args:
        run_or_checkpoint: name of a declared run, path of a file, or the folder of a trained run that it lies in.
        dataset: of the run, by default that which it is made on; with a file, one whose classes it has to have.
        seed: of the run, by default its first one.
        config: file of MMDetection's configuration, for a checkpoint that does not tell its own; it is executed.
        task: that a run has to be of; of files nothing is said.

    Returns:
        `Loaded`.

    Raises:
        ExperimentError: neither a run nor a file, not trained, damaged, of other classes than the data set, or of an
            unknown architecture.
    """
    name = str(run_or_checkpoint)
    if name in experiments.load().runs:
        return of_training(training_of(name, dataset, seed, task))
    if not Path(name).exists() and not _is_path(name):
        runs = experiments.load().runs
        raise ExperimentError(f"{name!r}: neither a file nor a run{strict.options(name, runs)}")
    return of_checkpoint(reading.read(name), dataset, config)


def training_of(run, dataset=None, seed=None, task=INSTANCES):
    """The `pipeline.declaration.config.Training` of a run of a task. Arguments as of `load_model`."""
    declared = experiments.load()
    chosen = declared.run(run)
    if (found := methods.task_of(chosen.method).name) != task:
        raise ExperimentError(f"run {run}: its task is {found}; name a run of the task {task}")
    dataset = dataset or chosen.on(experiments.chosen_dataset())
    if seed is None:
        seed = configs.load_knobs(chosen).seeds[0]
    return configs.resolve(run, dataset, seed, declared)


def of_training(training):
    """Load the checkpoint of a run. Returns `Loaded`, its steps those of an evaluation.

    The model is that of the configuration beside the weights: what was trained, whatever is declared today.
    """
    content = checkpoints.of_run(training)
    methods.register(training.method, training.knobs)
    path = paths.config(training.dataset, training.name, training.seed)
    model = training.model
    if path.is_file():
        model = reading.literal(path.read_text(encoding="utf-8"), path).get("model", model)
    labels = experiments.load().label_set(training.dataset)
    full = mmcv.Config({"model": model, "data": {"test": {"pipeline": training.data["test"]}}})
    trained = reading.Checkpoint(
        paths.checkpoint(training.dataset, training.name, training.seed),
        content["state_dict"],
        {"CLASSES": list(labels.names)} | dict(content.get("meta", {})),
        reading.OWN,
        None,
    )
    return Loaded(_built(trained, full, labels), labels, full)


def of_checkpoint(trained, dataset=None, config=None):
    """As `load_model`, for a `reading.Checkpoint`."""
    if config is not None:
        full = _executed(config)
    else:
        full = mmcv.Config(trained.configuration())
    if not isinstance(full.get("model"), dict):
        raise ExperimentError(
            f"{config or trained.path}: the configuration has no `model`; name another: --config FILE"
        )
    _import(full, config or trained.path)
    full.data = mmcv.ConfigDict(full.get("data", {}))
    labels = _labels(trained, full, dataset)
    tested = full.data.get("test", {})
    if isinstance(tested, list):  # as runs were published before MMDetection's tools could read it
        full.data.test = mmcv.ConfigDict(pipeline=tested)
    elif "pipeline" not in tested:
        task = methods.task_of(trained.method) if trained.method else tasks.task(INSTANCES)
        full.data.test = mmcv.ConfigDict(pipeline=full_size_steps(task, labels.name))
    return Loaded(_built(trained, full, labels), labels, full)


def full_size_steps(task, label_set):
    """Steps of inference at the size at which checkpoints of others were trained.

    Args:
        task: `tasks.Task`.
        label_set: name of that of their classes.
    """
    images = experiments.load().profiles[FULL_SIZE.get(label_set, BY_TASK[task.name])]["images"]
    return task.steps(images)["test"]


def _is_path(name):
    return "/" in name or Path(name).suffix in (".pth", ".pt")


def _executed(config):
    if not Path(config).is_file():
        raise ExperimentError(f"{config}: no such file")
    try:
        return mmcv.Config.fromfile(str(config))
    except Exception as error:  # a file of Python may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExperimentError(f"{config}: not a configuration of MMDetection ({reason})") from None


def _import(full, where):
    """Import what the model's types are registered by: modules of this project or of MMDetection alone."""
    wanted = (full.get("custom_imports") or {}).get("imports") or []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name.split(".")[0] not in ("pipeline", "mmdet"):
            raise ExperimentError(
                f"{where}: wants to import {name!r}, which is of neither this project nor MMDetection"
            )
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExperimentError(f"{where}: {error}; it is of another version of this project") from None
    for name in methods.names():  # older files name no module
        importlib.import_module("pipeline.compat")
        for module in methods.method(name).modules:
            importlib.import_module(module)


def _labels(trained, full, dataset):
    """The label set of a checkpoint, or of a data set, whose classes it has to have."""
    classes = classes_of(trained)
    if classes is None and (number := _number(full.model)) is not None:
        coco = label_sets.label_set(COCO)
        classes = coco.names if number == len(coco) else tuple(f"class {label}" for label in range(1, number + 1))
        if dataset is not None and number == len(experiments.load().label_set(dataset)):
            classes = experiments.load().label_set(dataset).names
    if classes is None:
        raise ExperimentError(f"{trained.path}: says nothing of its classes")
    if (number := _number(full.model)) not in (None, len(classes)):
        raise ExperimentError(f"{trained.path}: names {len(classes)} classes, its configuration has {number}")
    if dataset is not None:
        labels = experiments.load().label_set(dataset)
        if labels.names != classes:
            raise ExperimentError(f"{trained.path}: {_differing(classes, labels)}")
        return labels
    for name in label_sets.known():
        if label_sets.label_set(name).names == classes:
            return label_sets.label_set(name)
    categories = tuple(Category(number, name, "") for number, name in enumerate(classes, 1))
    return LabelSet(trained.path.stem, f"classes of {trained.path}", categories, {"all": classes, "none": ()}, {})


def classes_of(trained):
    """Names of the classes of a checkpoint, None if nothing tells them."""
    room = methods.required(trained.method, "checkpoint_map") if trained.method else None
    if not hasattr(room, "classes_of") or trained.classes != tuple(room.classes()):
        return trained.classes
    return room.classes_of(trained.state)  # `reading` takes the former where a file names none


def _differing(classes, labels):
    """How classes of a checkpoint differ from those of a data set, in words."""
    extra = [name for name in classes if name not in labels.names]
    missing = [name for name in labels.names if name not in classes]
    parts = [
        f"{words} {', '.join(map(repr, names[:3]))}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for words, names in (("has", extra), ("lacks", missing))
        if names
    ] or ["has them in another order"]
    return (
        f"its {len(classes)} classes are not the {len(labels)} of label set {labels.name!r}: it {' and '.join(parts)}; "
        "name a data set of its classes: --dataset NAME, or train from it"
    )


def _number(model):
    """Number of classes of a configured model, None if it does not say."""
    if head := model.get("panoptic_head"):
        return (head.get("num_things_classes", 0) + head.get("num_stuff_classes", 0)) or None
    if "num_classes" in model:
        return model["num_classes"]
    head = model.get("roi_head", model)
    head = head.get("bbox_head", {})
    head = head[0] if isinstance(head, list) else head  # a cascade
    return head.get("num_classes")


def _built(trained, full, labels):
    """Build the model of a configuration and put weights into it."""
    try:
        model = build_detector(mmcv.ConfigDict(full.model), test_cfg=full.get("test_cfg"))
    except Exception as error:  # of another version of MMDetection, for example
        reason = str(error).splitlines()[0]
        raise ExperimentError(
            f"{trained.path}: its architecture cannot be built ({reason}); name a configuration that can: --config FILE"
        ) from None
    expected = model.state_dict()
    misfits = [key for key in expected if key not in trained.state or expected[key].shape != trained.state[key].shape]
    room = methods.required(trained.method, "checkpoint_map") if trained.method else None
    unread = getattr(room, "UNREAD", re.compile(r".*\.num_batches_tracked"))
    misfits = [key for key in misfits if not unread.fullmatch(key)]
    if misfits or (extra := [key for key in trained.state if key not in expected]):
        first = misfits[0] if misfits else extra[0]
        shape = tuple(trained.state[first].shape) if first in trained.state else "missing"
        wanted = tuple(expected[first].shape) if first in expected else "absent"
        raise ExperimentError(
            f"{trained.path}: {len(misfits) or len(extra)} tensors do not fit its configuration, such as {first}: "
            f"{shape}, in the model {wanted}; name the configuration that it was trained with: --config FILE"
        )
    # One that gives labels and no scores would hide it; what is trained here is looked at when it ends.
    if spoiled := next((key for key, tensor in trained.state.items() if not torch.isfinite(tensor).all()), None):
        raise ExperimentError(f"{trained.path}: {spoiled!r} holds a value that is not finite; name another file")
    model.load_state_dict(trained.state, strict=False)
    model.CLASSES, model.cfg = labels.names, full
    return model.eval()
