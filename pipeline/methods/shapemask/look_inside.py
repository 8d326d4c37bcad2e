"""What a trained ShapeMask makes of validation objects: shape prior, coarse mask, fine mask.

Ground-truth boxes stand for detections; no mask is looked at. Legend: N objects, S cells on a side, U upsampling.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import torch
from mmdet.core import bbox2roi

from pipeline.methods.shared import inside
from pipeline.methods.shared.shapemask import geometry


def write(training, base, novel):
    """Write what `compute` finds about validation objects; arguments and errors as of `inside.write`."""
    inside.write(training, base, novel, lambda model, objects: compute(model, objects.image, objects.boxes))


@torch.no_grad()
def compute(model, image, boxes):
    """Segment the objects of one image in their boxes, as detections are.

    Args:
        model: a detector of ShapeMask, in evaluation mode.
        image: [1, 3, H, W] network input.
        boxes: [N, 4] (x1, y1, x2, y2) in network-input pixels.

    Returns:
        Arrays by name, float32, all but the first two in the outer boxes: `frames` [N, 4], those in shares of the
        boxes, where 0 and 1 are left and right (top and bottom) of the box; `prior_weights` [N, K]; `priors` [N, S, S],
        `coarse` [N, S, S] and `fine` [N, U S, U S] in [0, 1].
    """
    head, x = model.roi_head, model.extract_feat(image)
    found = head._mask_features(x, bbox2roi([boxes]), None)
    frames = geometry.outer(boxes, head.outer_box, *head._input_size(x))
    corner, extent = boxes[:, :2].repeat(1, 2), (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6).repeat(1, 2)
    arrays = {
        "frames": (frames - corner) / extent,
        "prior_weights": found["weights"],
        "priors": found["prior"],
        "coarse": found["coarse"].sigmoid(),
        "fine": found["mask_pred"][:, 0].sigmoid(),
    }
    return {name: values.float().cpu().numpy() for name, values in arrays.items()}
