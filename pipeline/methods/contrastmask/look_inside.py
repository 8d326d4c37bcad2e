"""What the contrastive loss of a trained run sees on validation objects: CAM, partition, candidate and sampled keys.

Ground-truth boxes stand for the positive RoIs of training, and what is computed on them is what training computes
(sections 3.1 and 3.2 of the paper): base objects are partitioned by their mask, novel ones by their CAM.

Legend: N objects, S cells on a side of the contrastive RoI feature; set and side axes as in
`pipeline.methods.contrastmask.partition`.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
import torch
from mmdet.core import bbox2roi, mask_target

from pipeline.methods.contrastmask import partition, sampling
from pipeline.methods.shared import inside
from pipeline.methods.shared.draws import step_generator


def write(training, base, novel):
    """Write what `compute` finds about validation objects, see `inside.write`; the run's seed decides the draw of keys.

    Args:
        training: pipeline.declaration.config.Training of the run.
        base, novel: names of the categories of its split.

    Raises:
        ExperimentError: the run is not trained, or no image fits.
    """

    def look(model, objects):
        generator = step_generator(training.seed, 0, objects.image_id, objects.boxes.device)
        seen = objects.image, objects.boxes, objects.labels, objects.masks, objects.is_novel
        return compute(model, *seen, generator)

    inside.write(training, base, novel, look)


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
