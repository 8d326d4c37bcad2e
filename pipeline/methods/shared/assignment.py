"""MMDetection's assignment of boxes to objects and its sampling, for all images at once and without a look at a value.

Legend: B images, N boxes and G objects of an image.
"""

import torch
from mmdet.core.bbox.assigners import MaxIoUAssigner
from mmdet.core.bbox.samplers import RandomSampler
from torch import Tensor

from pipeline.methods.shared.draws import Drawn, draw
from pipeline.methods.shared.padded import Padded


def require_supported(assigner, sampler):
    """Refuse what is not equivalent here: raises ValueError for another assigner or sampler, or an option of theirs."""
    if (
        type(assigner) is not MaxIoUAssigner
        or isinstance(assigner.neg_iou_thr, tuple)
        or not assigner.gt_max_assign_all
    ):
        raise ValueError("the assigner must be a MaxIoUAssigner with one neg_iou_thr and gt_max_assign_all")
    if type(sampler) is not RandomSampler or sampler.neg_pos_ub >= 0:
        raise ValueError("the sampler must be a RandomSampler without neg_pos_ub")


def assign(assigner: MaxIoUAssigner, boxes: Padded, objects: Padded, ignored: Padded | None = None) -> Tensor:
    """As `MaxIoUAssigner.assign` for each image.

    Args:
        assigner: its thresholds count.
        boxes: rows [B, N, 4 or more], such as anchors or proposals.
        objects: rows [B, G, 4].
        ignored: rows [B, I, 4], regions whose boxes are neither background nor an object's; None if there are none.

    Returns:
        [B, N] int64: 0 background, the number of the object from 1, or -1 for neither.
    """
    overlaps = assigner.iou_calculator(objects.rows, boxes.rows)
    left_out = ~boxes.valid
    if ignored is not None and assigner.ignore_iof_thr > 0:
        left_out = left_out | _in_ignored(assigner, boxes, ignored)
    # Of no object, and no box's of an object that is not there.
    overlaps = overlaps.masked_fill(left_out[:, None], -1).masked_fill(~objects.valid[..., None], -2)
    best, owner = overlaps.max(1)
    assigned = torch.where((best >= 0) & (best < assigner.neg_iou_thr), 0, -1)
    assigned = torch.where(best >= assigner.pos_iou_thr, owner + 1, assigned)
    if assigner.match_low_quality:
        # Each object also gets the boxes that it overlaps most with; of several objects the last one has its way.
        closest = overlaps.amax(2, keepdim=True)
        matched = (overlaps == closest) & (closest >= assigner.min_pos_iou)
        number = torch.arange(1, overlaps.shape[1] + 1, dtype=torch.int16, device=overlaps.device)
        forced = torch.where(matched, number[:, None], 0).amax(1)
        assigned = torch.where(forced > 0, forced, assigned)
    without_objects = ~objects.valid.any(1, keepdim=True)
    return torch.where(without_objects, 0, assigned).masked_fill(~boxes.valid, -1)


def _in_ignored(assigner, boxes, ignored):
    """Whether a box lies in an ignored region: [B, N] bool."""
    if assigner.ignore_wrt_candidates:
        shares = assigner.iou_calculator(boxes.rows, ignored.rows, mode="iof")
    else:
        shares = assigner.iou_calculator(ignored.rows, boxes.rows, mode="iof").transpose(1, 2)
    return shares.masked_fill(~ignored.valid[:, None], 0).amax(2) > assigner.ignore_iof_thr


def sample(sampler: RandomSampler, assigned: Tensor, generator: torch.Generator | None) -> tuple[Drawn, Drawn]:
    """As `RandomSampler.sample` for each image: positives, at most their share, and negatives for the rest.

    Where there are not more candidates than are wanted, all are drawn, as there; otherwise as many, from the same
    distribution.

    Args:
        sampler: its numbers count.
        assigned: [B, N] from `assign`.
        generator: source of the draw, on the device of `assigned`; None for the global one.
    """
    numbers = torch.rand(assigned.shape, generator=generator, device=assigned.device)
    positives = draw(assigned > 0, numbers, int(sampler.num * sampler.pos_fraction))
    return positives, draw(assigned == 0, numbers, sampler.num, sampler.num - positives.count)
