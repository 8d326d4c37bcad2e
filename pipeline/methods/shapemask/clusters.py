"""Shape priors: centres of clusters of the masks of base categories, in the frames of their boxes.

The released code loads such centres from a file and says no more of them than k-means; Lloyd's algorithm from masks
drawn by a fixed seed is this project's choice. No mask of a novel category is looked at.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import hashlib
import logging

import numpy as np
import torch
from mmdet.core import BitmapMasks
from pycocotools import mask as coco_masks

from pipeline.artifacts import files, paths
from pipeline.datasets.annotations import stream
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.methods.shared.mask_targets import crop
from pipeline.methods.shared.shapemask.parts import scale
from pipeline.methods.shared.shapemask.priors import FILE, array
from pipeline.methods.shared.sizes import Sizes

logger = logging.getLogger("pipeline.methods.shapemask.clusters")

MOST = 50_000  # masks that are clustered; of more, every n-th by the order of the file
SEED = 0  # of the masks that centres begin as
ROUNDS = 300  # at most; a few dozen are enough
BLOCK = 4096  # masks whose distances are computed at once


def lloyd(masks: np.ndarray, initial: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Cluster masks by k-means: squared distance, ties to the lower index, a centre without a mask stays.

    Args:
        masks: [N, ...] bool or numbers.
        initial: [K] indices of the masks that centres begin as.

    Returns:
        Assignment [N] int64, centres [K, ...] float32, and how often the centres were moved, `ROUNDS` times at most.
    """
    rows = masks.reshape(len(masks), -1).astype(np.float64)
    centres = rows[initial]
    assignment, rounds = _nearest(rows, centres), 0
    while rounds < ROUNDS:
        rounds += 1
        members = assignment == np.arange(len(centres))[:, None]
        counts = members.sum(1, keepdims=True)
        centres = np.where(counts > 0, members.astype(np.float64) @ rows / np.maximum(counts, 1), centres)
        before, assignment = assignment, _nearest(rows, centres)
        if (before == assignment).all():
            break
    return assignment, centres.reshape(-1, *masks.shape[1:]).astype(np.float32), rounds


def _nearest(rows, centres):
    """Index of the centre nearest to each row; the row's own square, the same for all centres, is left out."""
    squares = (centres**2).sum(1)
    blocks = (rows[first : first + BLOCK] for first in range(0, len(rows), BLOCK))
    return np.concatenate([(squares - 2 * block @ centres.T).argmin(1) for block in blocks])


def base_masks(annotations_file, base_ids, cells: int, most: int = MOST) -> np.ndarray:
    """Masks of base objects in the frames of their boxes.

    Args:
        annotations_file: training annotations of a split.
        base_ids: ids of the base categories; others are passed over, whatever they hold.
        cells: cells on a side.
        most: if there are more, every n-th is taken.

    Returns:
        [N, cells, cells] bool.
    """
    sizes, total = {}, 0
    base = set(base_ids)

    def count(section, _position, entries, _again):
        nonlocal total
        if section == "images":
            sizes.update((image["id"], (image["height"], image["width"])) for image in entries)
        else:
            total += sum(_has_shape(annotation, base) for annotation in entries)

    stream(annotations_file, count)
    step, found, seen = max(1, -(-total // most)), [], 0

    def collect(section, _position, entries, _again):
        nonlocal seen
        for annotation in entries if section == "annotations" else ():
            if _has_shape(annotation, base):
                if seen % step == 0:
                    found.append(_in_box(annotation, sizes[annotation["image_id"]], cells))
                seen += 1

    stream(annotations_file, collect)
    kept = [mask for mask in found if mask.any()]  # one thinner than a cell may leave none
    return np.array(kept, dtype=bool).reshape(-1, cells, cells)


def _has_shape(annotation, base):
    if annotation["category_id"] not in base or annotation.get("iscrowd") or not annotation.get("segmentation"):
        return False
    return min(annotation["bbox"][2:]) > 0


def _in_box(annotation, size, cells):
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        segmentation = coco_masks.frPyObjects(segmentation, *size)
    elif isinstance(segmentation, list):
        segmentation = coco_masks.merge(coco_masks.frPyObjects(segmentation, *size))
    x, y, width, height = annotation["bbox"]
    frame = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
    # Decoded masks are stored by columns, which mmcv's operators do not look at.
    mask = BitmapMasks(np.ascontiguousarray(coco_masks.decode(segmentation))[None], *size)
    return crop([frame], [torch.zeros(1, dtype=torch.long)], [mask], cells)[0].numpy()


def write(annotations_file, base_ids, cells: int, numbers, out_dir):
    """Write `centres.npz` for a split, and beside it `source.json`, which tells the annotations by their content.

    Args:
        annotations_file, base_ids, cells: as of `base_masks`.
        numbers: how many centres; one set for each of the numbers.
        out_dir: created if missing.

    Raises:
        ExperimentError: no object of a base category has a mask.
    """
    masks = base_masks(annotations_file, base_ids, cells)
    if not len(masks):
        raise ExperimentError(
            f"{annotations_file}: no object of a base category has a mask, so there is no shape to learn; choose "
            "another direction, or tables without ShapeMask"
        )
    made, clustered = {}, {}
    for number in numbers:
        order = np.random.default_rng(SEED).permutation(len(masks))
        # Fewer masks than centres: some centres begin equal, the later ones stay without a mask.
        assignment, centres, rounds = lloyd(masks, np.resize(order, number))
        made[array(number)] = centres
        clustered[str(number)] = {"rounds": rounds, "used": len(np.unique(assignment))}
        logger.info("%d centres of %d masks after %d rounds", number, len(masks), rounds)
    with files.writing(out_dir / FILE) as file:
        np.savez(file, **made)
    with open(annotations_file, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    files.write_json(out_dir / "source.json", {"annotations": digest, "masks": len(masks), "clusters": clustered})


def make(dataset: str, direction: str, out_dir):
    """As the module that `Method.priors` names: `write` for a direction, at the scale of the dataset's profile."""
    declared = experiments.load()
    labels = declared.label_set(dataset)
    base, _ = labels.base_and_novel(direction)
    of = scale(Sizes(**declared.profile(dataset)["architecture"].get("two_stage", {})))
    ids = [category.id for category in labels.categories if category.name in base]
    write(paths.split_train(dataset, direction), ids, of.cells, [number for _, number in of.priors], out_dir)
