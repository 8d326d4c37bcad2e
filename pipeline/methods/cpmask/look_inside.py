"""What a trained CPMask, on either detector, makes of validation objects: mask, boundary, gate and attention.

Ground-truth boxes stand for detections; no mask is looked at. Legend: N objects, S cells on a side of a RoI feature.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import torch
from mmdet.core import bbox2roi

from pipeline.methods.shared import inside
from pipeline.methods.shared.cpmask.affinity import on_cells


def write(training, base, novel):
    """Write what `compute` finds about validation objects; arguments and errors as of `inside.write`."""
    inside.write(training, base, novel, lambda model, objects: compute(model, objects.image, objects.boxes))


@torch.no_grad()
def compute(model, image, boxes):
    """Compute the maps of the objects of one image, as detections of these boxes get them.

    Args:
        model: a detector with `CPMaskRoIHead`, in evaluation mode.
        image: [1, 3, H, W] network input.
        boxes: [N, 4] (x1, y1, x2, y2) in network-input pixels.

    Returns:
        Arrays by name, float32 in [0, 1]: `masks` and `boundaries` [N, 2S, 2S], probabilities; `gates` [N, S, S], how
        much of the boundary feature enters; `attention` [N, S, S], what the cells of the predicted foreground give to
        each cell in the mean, 1 in all, 0 without foreground; `attended`, the same with its largest value as 1.
    """
    head = model.roi_head
    features = head._roi_features(model.extract_feat(image), bbox2roi([boxes]))
    masks, boundaries, affinity = (part.float() for part in head.mask_head.forward_with_boundary(features))
    gates = head.mask_head._gate(features, head.mask_head._parsed(features))
    foreground = on_cells(masks[:, 0] > 0, affinity.shape[-1]).to(affinity)
    given = torch.einsum("nij,ni->nj", affinity, foreground) / foreground.sum(1, keepdim=True).clamp(min=1)
    found = {
        "masks": masks[:, 0].sigmoid(),
        "boundaries": boundaries[:, 0].sigmoid(),
        "gates": gates[:, 0],
        "attention": given.view(-1, *features.shape[-2:]),
        "attended": (given / given.amax(1, keepdim=True).clamp(min=1e-12)).view(-1, *features.shape[-2:]),
    }
    return {name: maps.cpu().numpy() for name, maps in found.items()}
