"""Score any checkpoint on the validation images of a data set, with the numbers of a run's evaluation."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import hashlib
import logging

import numpy as np
from mmcv.parallel import DataContainer
from mmdet.utils import build_dp
from tabulate import tabulate
from torch import nn

from pipeline import methods, tasks
from pipeline.artifacts import detections, paths
from pipeline.declaration import config, experiments, recipe, schema, subsets
from pipeline.errors import ExperimentError
from pipeline.hardware import test_batch, use_device
from pipeline.tasks import WHOLE
from pipeline.tasks.instances import TASK, prediction, scoring
from pipeline.tasks.instances.packed_coco import validation_set
from pipeline.tasks.semantic import data as maps_data
from pipeline.tasks.semantic import prediction as maps_prediction
from pipeline.trained import loading, reading

logger = logging.getLogger("pipeline.trained.evaluating")

OUR_LOADING = {"type": "LoadWholeImage"}  # of MMDetection's, which does not look whether an image is the annotated one


def evaluate(file, run=None, dataset=None, direction=None, configuration=None):
    """Predict and score. A killed prediction goes on behind its last image, an equal one is not made again.

    Args:
        file: of a checkpoint, see `loading.load_model`.
        run: a declared one, whose data set and direction are taken.
        dataset: instead of that of `run`; by default the chosen one.
        direction: whose base and novel classes are scored apart; by default that of `run`, else none.
        configuration: file of MMDetection's configuration, for a checkpoint that does not tell its own.

    Returns:
        {"checkpoint", "origin", "sha256", "dataset", "direction", "task", "kinds", "scores", "per_category"}, the last
        two as of the task's `score`, without what a detector does not predict.

    Raises:
        ExperimentError: as `loading.load_model`; an unknown name, images or annotations that are not there.
    """
    declared = experiments.load()
    if run is not None:
        chosen = declared.run(run)
        dataset = dataset or chosen.on(experiments.chosen_dataset())
        direction = direction or chosen.direction
    dataset = dataset or experiments.chosen_dataset()
    labels = declared.label_set(dataset)
    trained = reading.read(file)
    loaded = loading.of_checkpoint(trained, dataset, configuration)
    task = _task(loaded, dataset, declared, file)
    groups = task.named(*labels.base_and_novel(direction)) if direction else {}
    if not (annotations := subsets.validation(dataset).annotations).exists():
        raise ExperimentError(
            f"{annotations.relative_to(paths.ROOT)}: no such file; run `python -m stages.download {dataset}`"
        )
    digest = reading.sha256(trained.path)
    name = f"checkpoint_{digest[:20]}_{dataset}"
    path = paths.scratch(name) / "detections.json"
    title = f"evaluate {trained.path.name}"
    if loaded.of_maps:
        predict_maps(loaded, dataset, digest, name, path, title)
        scores, kinds = task.score(dataset, path, groups), list(task.kinds)
    else:
        predict(loaded, dataset, digest, name, path, title)
        scores = scoring.score_predictions(dataset, path, groups)
        kinds = [kind for kind, name in task.kinds.items() if segments_too(loaded.model) or name == "box"]
    path.unlink()
    return {
        "checkpoint": str(file),
        "origin": trained.origin,
        "sha256": digest,
        "dataset": dataset,
        "direction": direction,
        "task": task.name,
        "kinds": kinds,
        **{key: [row for row in scores[key] if row["kind"] in kinds] for key in ("scores", "per_category")},
    }


def _task(loaded, dataset, declared, file):
    """The task of a model, which has to be one of the data set."""
    task = tasks.task(loading.MAPS if loaded.of_maps else TASK.name)
    if schema.holds(declared.dataset(dataset)["kind"]) != task.reads:
        kind = "label maps" if loaded.of_maps else "detections"
        raise ExperimentError(f"{file}: a model of {kind}, which data set {dataset} does not score; name another")
    return task


def predict_maps(loaded, dataset, digest, name, path, title):
    """Write label maps of the validation images of a data set. Arguments as of `predict`."""
    device, batch_size, steps = use_device(), test_batch(), [plain(step) for step in loaded.config.data.test.pipeline]
    images = maps_data.validation_set(dataset, steps)
    names = [image["file_name"] for image in images.pack.images]
    identity = _identity(loaded, dataset, digest, steps, tasks.task(loading.MAPS), device, batch_size)
    with detections.saved(name, identity, names) as lines:
        if lines.done < len(images):
            model, inference = loaded.model.to(device), maps_prediction.Inference(title)
            maps_prediction._infer(model, device, images, lines, batch_size, title, inference)
        lines.publish(path)


def segments_too(model):
    """Whether a detector predicts masks."""
    return bool(getattr(model, "with_mask", False))


def predict(loaded, dataset, digest, name, path, title):
    """Write detections on the validation images of a data set, COCO result records, as `prediction.predict`.

    Args:
        loaded: `loading.Loaded`, of the classes of the data set.
        digest: of its file.
        name: of the folder in scratch/ that keeps what is predicted already.
        path: JSON array to write.
        title: of the progress bar.
    """
    device, batch_size = use_device(), test_batch()
    steps = steps_of(loaded)
    images = validation_set(dataset, steps)
    identity = _identity(loaded, dataset, digest, steps, TASK, device, batch_size)
    model = loaded.model if segments_too(loaded.model) else FilledBoxes(loaded.model)
    with detections.saved(name, identity, images.img_ids) as lines:
        if lines.done:
            logger.info("%s: %d of %d images are predicted already", title, lines.done, len(images))
        if lines.done < len(images):
            parallel = build_dp(model, device, device_ids=range(1)).eval()
            prediction._infer(parallel, images, lines, batch_size, title)
        lines.publish(path)


def _identity(loaded, dataset, digest, steps, task, device, batch_size):
    """All that predictions depend on, so that those of something else are not gone on with."""
    rooms = (each for name in methods.names() for each in methods.method(name).modules)
    content = {
        "checkpoint": digest,
        "configuration": config.tagged({"model": loaded.config.model.to_dict(), "test": steps}),
        "data": [reading.sha256(path) for path in (subsets.validation(dataset).annotations, paths.manifest(dataset))],
        "code": recipe.code_of((__name__, *task.prediction_modules, *rooms)),
        "versions": recipe.versions(),
        "device": device,
        "batch": batch_size,
    }
    return {"identity": hashlib.sha256(repr(content).encode()).hexdigest()}


def steps_of(loaded):
    """The steps of inference of a loaded detector, with this project's way to open an image."""
    steps = [plain(step) for step in loaded.config.data.test.pipeline]
    return [OUR_LOADING, *steps[1:]] if steps[0]["type"] == "LoadImageFromFile" else steps


def plain(value):
    """Plain containers of MMDetection's configuration."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


class FilledBoxes(nn.Module):
    """A detector without masks whose masks are its boxes: what predicts and scores wants some; nothing reports them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, img, img_metas, **options):
        """As a detector's in testing, with masks."""
        found = self.model(img=img, img_metas=img_metas, **options)
        metas = img_metas[0].data[0] if isinstance(img_metas[0], DataContainer) else img_metas[0]
        return [
            (boxes, [[_filled(box, meta["ori_shape"]) for box in of_class] for of_class in boxes])
            for boxes, meta in zip(found, metas, strict=True)
        ]


def _filled(box, shape):
    mask = np.zeros(shape[:2], dtype=bool)
    left, top, right, bottom = np.round(box[:4]).astype(int)
    mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    return mask


def table(result):
    """The scores of `evaluate` as text: a row for each group and kind, percent."""
    values = {(row["group"], row["kind"], row["metric"]): row["value"] for row in result["scores"]}
    task = tasks.task(result["task"])
    groups = [group for group in task.groups if group == WHOLE or result["direction"]]
    rows = [
        [group, task.kinds[kind] or kind, *(values.get((group, kind, metric.key)) for metric in task.metrics)]
        for kind in result["kinds"]
        for group in groups
    ]
    headers = ["classes", "of", *(metric.label for metric in task.metrics)]
    return tabulate(rows, headers=headers, tablefmt="github", floatfmt=".1f", missingval="-")
