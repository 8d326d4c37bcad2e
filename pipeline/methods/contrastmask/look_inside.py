"""What the contrastive loss of a trained run sees on validation objects: CAM, partition, candidate and sampled keys.

Ground-truth boxes stand for the positive RoIs of training, and what is computed on them is what training computes
(sections 3.1 and 3.2 of the paper): base objects are partitioned by their mask, novel ones by their CAM.

Legend: N objects, S cells on a side of the contrastive RoI feature; set and side axes as in
`pipeline.methods.contrastmask.partition`.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import logging

import mmcv
import numpy as np
import torch
from mmdet.core import BitmapMasks, bbox2roi, mask_target
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import checkpoint, files, paths
from pipeline.errors import ExperimentError
from pipeline.hardware import use_device
from pipeline.methods.contrastmask import partition, sampling
from pipeline.methods.shared.draws import step_generator
from pipeline.tasks.instances import examples
from pipeline.tasks.instances.packed_coco import validation_set

logger = logging.getLogger("pipeline.methods.contrastmask.look_inside")


def write(training, base, novel):
    """Write `predictions/<dataset>/look_inside/<run>.npz` for a trained run.

    The objects are those that count (`examples.objects_of`) in the first `examples.LOOKED_INTO` validation images
    that show a base and a novel one. The file holds plain arrays, a row or a column for each object, in the order of
    image and annotation ids: `image_ids`, `annotation_ids`, `boxes` (x1, y1, x2, y2 in image pixels), `labels`
    (category ids), `is_novel`, and what `compute` returns.

    Args:
        training: pipeline.declaration.config.Training of the run; its seed decides the draw of the keys.
        base, novel: names of the categories of its split.

    Raises:
        ExperimentError: the run is not trained, or no image fits.
    """
    ground_truth = examples.load_ground_truth(training.dataset)
    groups = {"base": base, "novel": novel}
    image_ids = examples.select_images(ground_truth, groups, examples.LOOKED_INTO)
    if not image_ids:
        raise ExperimentError(
            f"{training.dataset}: no validation image shows both a base and a novel object that cover "
            f"{examples.MIN_AREA:.0%} of it; drop the figures that need stage look_inside for this dataset"
        )
    device = use_device()
    model = load_model(training).to(device)
    data = validation_set(training.dataset, training.data["test"])
    novel_ids = {category["id"] for category in ground_truth.cats.values() if category["name"] in novel}
    rows, without_mask = [], 0
    for image_id in image_ids:
        counted = examples.objects_of(ground_truth, groups, image_id)
        annotations = [annotation for annotation in counted if annotation.get("segmentation")]
        without_mask += len(counted) - len(annotations)
        if not annotations:
            continue
        labels = np.array([annotation["category_id"] for annotation in annotations])
        is_novel = np.isin(labels, sorted(novel_ids))
        boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        masks = [examples.mask_or_nothing(ground_truth, annotation) for annotation in annotations]
        image, in_input, masks = _network_input(data, image_id, boxes, masks)
        rows.append(
            {
                "image_ids": np.full(len(annotations), image_id),
                "annotation_ids": np.array([annotation["id"] for annotation in annotations]),
                "boxes": boxes,
                "labels": labels,
                "is_novel": is_novel,
                **compute(
                    model,
                    image.to(device),
                    in_input.to(device),
                    torch.tensor([data.cat2label[label] for label in labels.tolist()], device=device),
                    masks,
                    torch.from_numpy(is_novel).to(device),
                    step_generator(training.seed, 0, image_id, device),
                ),
            }
        )
    if without_mask:
        logger.warning("%s: %d objects without a mask are left out", training.dataset, without_mask)
    if not rows:
        raise ExperimentError(
            f"{training.dataset}: no object of the images that stage look_inside looks at has a mask; "
            "drop the figures that need it for this dataset"
        )
    path = paths.look_inside(training.dataset, training.name)
    _write_arrays({name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, path)
    logger.info(
        "%s: %d objects of %d images",
        path.relative_to(paths.ROOT),
        sum(map(len, (r["labels"] for r in rows))),
        len(rows),
    )


@torch.no_grad()
def compute(model, image, boxes, labels, masks, is_novel, generator):
    """Compute CAM, partition and keys of the objects of one image, as training does of positive RoIs.

    Args:
        model: a detector with a CL head, in evaluation mode.
        image: [1, 3, H, W] network input.
        boxes: [N, 4] ground truth (x1, y1, x2, y2) in network-input pixels.
        labels: [N] int64 classes.
        masks: BitmapMasks of the objects in network-input pixels; those of novel objects are looked at only if the
            run is supervised by an oracle.
        is_novel: [N] bool.
        generator: source of the draw of the keys, on the device of the model.

    Returns:
        Arrays by name: `cams` [N, S, S] float32 in [0, 1]; `has_prior` [N] bool, False where the CAM is constant;
        `from_mask` [N] bool, whether the mask and not the CAM makes the partition; `kept` [N] bool, whether the object
        takes part in the loss; `sides` [N, 2, S, S] bool, foreground and background, neither where unassigned;
        `candidates` and `keys` [N, 4, S, S] bool, keys being the sampled ones.
    """
    head = model.roi_head
    contrast, size = head.cl_head, head.cl_roi_size
    # The steps of ContrastMaskRoIHead's training pass, without the losses: a test compares the two.
    rois = bbox2roi([boxes])
    box = head._bbox_forward(model.extract_feat(image), rois)
    cam = head.bbox_head.activation_maps(box["cam_features"], labels)
    cams, has_prior = head._prior(cam, head.mask_roi_size, size)
    crops = mask_target([boxes], [torch.arange(len(boxes))], [masks], mmcv.ConfigDict(mask_size=size)).bool()
    masked = torch.ones_like(is_novel) if contrast.supervision == "oracle" else ~is_novel
    sets = partition.partition(crops & masked[:, None, None], cams[:, 0], masked, has_prior, contrast.rule)
    kept = sets.keeps(contrast.rule.min_keys) & contrast.participants(is_novel)
    keys = sampling.sample_keys(sets, kept, contrast.sampling_rule, generator)
    cells = {"sides": sets.sides, "candidates": sets.candidates, "keys": keys}
    return {
        "cams": cams[:, 0].cpu().numpy(),
        "has_prior": has_prior.cpu().numpy(),
        "from_mask": masked.cpu().numpy(),
        "kept": kept.cpu().numpy(),
        **{name: cells_.transpose(0, 1).unflatten(-1, (size, size)).cpu().numpy() for name, cells_ in cells.items()},
    }


def load_model(training):
    """The detector of a trained run, in evaluation mode. Raises ExperimentError if it is not trained."""
    methods.register(training.method, training.knobs)
    model = build_detector(mmcv.ConfigDict(training.model))
    model.load_state_dict(checkpoint.of_run(training)["state_dict"])
    return model.eval()


def _network_input(data, image_id, boxes, masks):
    """One image, its boxes [N, 4] and masks (N of [h, w]) as the network gets them: [1, 3, H, W], [N, 4], bitmaps."""
    sample = data[data.img_ids.index(image_id)]
    meta = sample["img_metas"][0].data
    (height, width), (padded_height, padded_width) = meta["img_shape"][:2], meta["pad_shape"][:2]
    scaled = torch.from_numpy(boxes * meta["scale_factor"]).float()
    scaled[:, 0::2].clamp_(0, width)
    scaled[:, 1::2].clamp_(0, height)
    masks = np.stack(list(masks))
    bitmaps = BitmapMasks(masks, *masks.shape[1:]).resize((height, width)).pad((padded_height, padded_width))
    return sample["img"][0][None], scaled, bitmaps


def _write_arrays(arrays, path):
    """Write arrays to an .npz in one step."""
    with files.writing(path) as file:
        np.savez_compressed(file, **arrays)
