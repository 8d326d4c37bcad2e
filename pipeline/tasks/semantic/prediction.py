"""Predict a label map for every image, image by image, and save them as they come.

Protocol: one scale, no flip; class scores at the original size of the image, then the best of all classes, base and
novel together. `model.simple_test(img, img_metas)` gives for each image a label map [H, W] or scores [K, H, W], a
tensor or an array, at `ori_shape`.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import hashlib
import logging

import mmcv
import numpy as np
import torch
from mmdet.models import build_detector
from torch.utils.data import DataLoader
from tqdm import tqdm

from pipeline import methods
from pipeline.artifacts import checkpoint, detections, paths
from pipeline.datasets.label_maps import IGNORE
from pipeline.declaration import recipe, subsets
from pipeline.errors import ExperimentError
from pipeline.hardware import data_workers, test_batch, use_device
from pipeline.processes import tie_to_trainer
from pipeline.tasks.semantic import stored
from pipeline.tasks.semantic.data import validation_set

logger = logging.getLogger("pipeline.tasks.semantic.prediction")

WINDOW = 64  # images among which those of one size make batches; as many maps at most wait for their turn


def predict(training, path):
    """Write the label maps of a trained run on the whole validation set, see `stored`.

    They are saved image by image below `paths.scratch`: a killed prediction goes on behind the last saved image, and a
    repetition computes nothing, as long as checkpoint, annotations, code, device, torch and the number of images
    predicted at a time are the same. Where one was cut does not show in the maps.

    Args:
        training: pipeline.declaration.config.Training of the run.
        path: JSON array to write, complete or not at all.

    Raises:
        ExperimentError: the run is not trained or its checkpoint damaged; scores that are not finite.
    """
    dataset = validation_set(training.dataset, training.data["test"])
    content = checkpoint.of_run(training, mmap=True)
    read = {"annotations": [subsets.validation(training.dataset).annotations, paths.manifest(training.dataset)]}
    identity, key = identified(training, recipe.of_prediction(training), read), content["meta"]["fingerprint"]
    save(training, content, key, identity, dataset, path, Inference(f"evaluate {training.name}"))


class Inference:
    """How a model predicts a batch; the steps of the data set give one image, at one scale.

    Args:
        title: of the progress.
    """

    def __init__(self, title):
        self.title = title

    def together(self, samples):
        """What the images of a batch are given to `found` as."""
        return torch.stack([sample["img"] for sample in samples]), [sample["img_metas"] for sample in samples]

    def found(self, model, positions, batch, device):
        """(results, metas) of a batch, one each of an image: as `label_map` takes them."""
        images, metas = batch
        return model.simple_test(images.to(device), metas, rescale=True), metas

    def told(self, done, of):
        """Called with the number of images that are saved, at the beginning and after every batch."""


def save(training, content, key, identity, dataset, path, inference):
    """Write the label maps of all images of a data set, see `predict`.

    Args:
        training: of the run.
        content: of its checkpoint.
        key: of the folder of what is saved meanwhile.
        identity: all that the maps depend on.
        dataset: as `data.images_of` gives it.
        path: JSON array to write.
        inference: an `Inference`.
    """
    device, batch_size = use_device(), test_batch()
    names = [image["file_name"] for image in dataset.pack.images]
    identity = identity | {"device": device, "batch": batch_size}
    with detections.saved(key, identity, names) as lines:
        if lines.done:
            logger.info(
                "%s seed %d: %d of %d images are predicted already",
                training.name,
                training.seed,
                lines.done,
                len(names),
            )
        if lines.done < len(dataset):
            methods.register(training.method, training.knobs)
            model = build_detector(mmcv.ConfigDict(training.model))
            model.load_state_dict(content["state_dict"])
            model.CLASSES = dataset.CLASSES
            title = f"{inference.title} seed {training.seed}"
            _infer(model.to(device).eval(), device, dataset, lines, batch_size, title, inference)
        lines.publish(path)


def _infer(model, device, dataset, lines, batch_size, title, inference):
    """Predict the images that are not saved."""
    done, unordered = lines.done, {}
    sizes = [(image["width"], image["height"]) for image in dataset.pack.images]
    # Batches are those of a prediction from the first image on, wherever this one begins: the same noise.
    batches = [batch for batch in batches_of(sizes, batch_size) if batch[-1] >= done]
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=data_workers(),
        multiprocessing_context="fork",
        collate_fn=inference.together,
        worker_init_fn=tie_to_trainer,
    )
    inference.told(done, len(dataset))
    with tqdm(total=len(dataset), initial=done, desc=title, unit="image", mininterval=5) as progress:
        for batch, gathered in zip(batches, loader, strict=True):
            with torch.no_grad():
                found, metas = inference.found(model, batch, gathered, device)
            for position, meta, result in zip(batch, metas, found, strict=True):
                if position >= done:
                    unordered[position] = stored.record(
                        meta["file_name"], label_map(result, meta, len(dataset.CLASSES))
                    )
                    progress.update()
            while lines.done in unordered:
                name = dataset.pack.images[lines.done]["file_name"]
                lines.add(name, [unordered.pop(lines.done)])
            inference.told(lines.done, len(dataset))


def batches_of(sizes, batch_size):
    """Positions of images in batches of one size each, so that no image is padded for the sake of another.

    Args:
        sizes: of the images, in their order.
        batch_size: images in a batch, or less where no other of that size is among the next `WINDOW` ones.
    """
    window = WINDOW if batch_size > 1 else 1
    for start in range(0, len(sizes), window):
        alike = {}
        for position in range(start, min(start + window, len(sizes))):
            alike.setdefault(sizes[position], []).append(position)
        for positions in alike.values():
            yield from (positions[at : at + batch_size] for at in range(0, len(positions), batch_size))


def label_map(result, meta, num_classes):
    """The label map, uint8 [H, W], of what a model gives for an image.

    Raises ExperimentError for scores that are not finite, and ValueError for another size than the image's, or a value
    that is neither a class nor 255.
    """
    found = torch.as_tensor(result)
    if found.dim() == 3:
        if not torch.isfinite(found).all():
            raise ExperimentError(
                f"image {meta['file_name']}: scores are not finite; the weights of the checkpoint are not usable: "
                "train with a lower learning rate"
            )
        found = found.argmax(0)
    found = found.cpu().numpy()
    if found.shape != tuple(meta["ori_shape"][:2]):
        raise ValueError(f"a map of {found.shape} pixels for an image of {meta['ori_shape'][:2]}")
    if ((found < 0) | (found >= num_classes) & (found != IGNORE)).any():
        raise ValueError(f"a label is neither below {num_classes} nor {IGNORE}")
    return found.astype(np.uint8)


def identified(training, content, read):
    """All that label maps depend on but the device; scoring is left out, so that mending it costs no prediction.

    Args:
        content: the recipe of the prediction.
        read: {name: files} that are read beside the checkpoint.
    """
    files = {"checkpoint": [paths.checkpoint(training.dataset, training.name, training.seed)], **read}
    return {
        "recipe": recipe.identity(content),
        "versions": recipe.versions(),
        **{name: _digest(members) for name, members in files.items()},
    }


def _digest(files):
    """Hex digest of the content of files, in their order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
