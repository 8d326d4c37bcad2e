"""Predict on the validation images and save the detections.

Protocol (contrastive method and baseline alike): one set of detections, at most 100 an image over all 80 categories;
COCO evaluation with the category ids restricted to a group (novel, base, all). Mask areas define small, medium, large.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import hashlib
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import mmcv
import numpy as np
import torch
from mmcv.parallel import collate
from mmdet.core import encode_mask_results
from mmdet.models import build_detector
from mmdet.utils import build_dp
from torch.utils.data import DataLoader
from tqdm import tqdm

from pipeline import methods
from pipeline.artifacts import checkpoint, detections, paths
from pipeline.declaration import recipe, subsets
from pipeline.errors import ExperimentError
from pipeline.hardware import data_workers, test_batch, use_device
from pipeline.processes import tie_to_trainer
from pipeline.tasks.instances.packed_coco import validation_set

logger = logging.getLogger("pipeline.tasks.instances.prediction")

BACKLOG = 4  # images whose masks wait for their encoding; 100 masks of 640x480 are 31 MB
WINDOW = 64  # images among which those of one size make batches; as many detections at most wait for their turn


def predict(training, path):
    """Write the detections of a trained run on the whole validation set: COCO result records in image order.

    They are saved image by image below `paths.scratch`: a killed inference goes on behind the last saved image, and a
    repetition infers nothing, as long as checkpoint, annotations, code, device, torch and the number of images
    predicted at a time are the same. Where an inference was cut does not show in the numbers.

    Args:
        training: pipeline.declaration.config.Training of the run.
        path: JSON array to write, complete or not at all.

    Raises:
        ExperimentError: the run is not trained or its checkpoint damaged.
    """
    device, batch_size = use_device(), test_batch()
    dataset = validation_set(training.dataset, training.data["test"])
    content = checkpoint.of_run(training, mmap=True)
    identity = _identity(training, device, batch_size)
    with detections.saved(content["meta"]["fingerprint"], identity, dataset.img_ids) as lines:
        if lines.done:
            logger.info(
                "%s seed %d: %d of %d images are predicted already",
                training.name,
                training.seed,
                lines.done,
                len(dataset),
            )
        if lines.done < len(dataset):
            methods.register(training.method, training.knobs)
            model = build_detector(mmcv.ConfigDict(training.model))
            model.load_state_dict(content["state_dict"])
            model.CLASSES = dataset.CLASSES
            _infer(
                build_dp(model, device, device_ids=range(1)).eval(),
                dataset,
                lines,
                batch_size,
                f"evaluate {training.name} seed {training.seed}",
            )
        lines.publish(path)


def _infer(model, dataset, lines, batch_size, title):
    """Predict the images that are not saved. A thread encodes masks and writes while the next ones are computed."""
    done, unordered = lines.done, {}
    sizes = [(info["width"], info["height"]) for info in dataset.data_infos]
    # Batches are those of an inference from the first image on, wherever this one begins: the same noise.
    batches = [batch for batch in _batches(sizes, batch_size) if batch[-1] >= done]
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=data_workers(),
        multiprocessing_context="fork",
        collate_fn=partial(collate, samples_per_gpu=batch_size),
        worker_init_fn=tie_to_trainer,
    )

    def save(index, boxes, masks):
        unordered[index] = _records(dataset.img_ids[index], dataset.cat_ids, boxes, masks)
        while lines.done in unordered:
            lines.add(dataset.img_ids[lines.done], unordered.pop(lines.done))

    waiting = deque()
    with (
        ThreadPoolExecutor(max_workers=1) as writer,
        tqdm(total=len(dataset), initial=done, desc=title, unit="image", mininterval=5) as progress,
    ):
        for batch, images in zip(batches, loader, strict=True):
            with torch.no_grad():
                detected = model(return_loss=False, rescale=True, **images)
            for index, (boxes, masks) in zip(batch, detected, strict=True):
                if index >= done:
                    waiting.append(writer.submit(save, index, boxes, masks))
                    progress.update()
            while len(waiting) > BACKLOG:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()


def _batches(sizes, batch_size):
    """Positions of images in batches of one size each, so that no image is padded for the sake of another.

    Args:
        sizes: of the images, in their order.
        batch_size: images in a batch, or less where no other image of that size is among the next `WINDOW` ones.
    """
    window = WINDOW if batch_size > 1 else 1
    for start in range(0, len(sizes), window):
        alike = {}
        for index in range(start, min(start + window, len(sizes))):
            alike.setdefault(sizes[index], []).append(index)
        for indices in alike.values():
            yield from (indices[at : at + batch_size] for at in range(0, len(indices), batch_size))


def _records(image, category_ids, boxes, masks):
    """COCO result records of an image. Engines take numbers that are not finite differently, so they are refused."""
    if not all(np.isfinite(box).all() for box in boxes):
        raise ExperimentError(
            f"image {image}: a detection has a box or score that is not finite; the weights of the "
            "checkpoint are not usable: train with a lower learning rate"
        )
    records = []
    for category, box, mask in zip(category_ids, boxes, encode_mask_results(masks), strict=True):
        for (x1, y1, x2, y2, confidence), rle in zip(box.tolist(), mask, strict=True):
            records.append(
                {
                    "image_id": image,
                    "category_id": category,
                    "score": confidence,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
                }
            )
    return records


def _identity(training, device, batch_size):
    """All that detections depend on; scoring is left out, so that mending it does not cost an inference."""
    files = {
        "checkpoint": [paths.checkpoint(training.dataset, training.name, training.seed)],
        "annotations": [subsets.validation(training.dataset).annotations, paths.manifest(training.dataset)],
    }
    return {
        "recipe": recipe.identity(recipe.of_prediction(training)),
        "versions": recipe.versions(),
        "device": device,
        "batch": batch_size,
        **{name: _digest(members) for name, members in files.items()},
    }


def _digest(files):
    """Hex digest of the content of files, in their order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
