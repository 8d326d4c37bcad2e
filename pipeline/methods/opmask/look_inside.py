"""What a trained OPMask makes of validation objects: class activation map and mask.

Ground-truth boxes and categories stand for detections; no mask is looked at. Legend: N objects, S cells on a side.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import torch
from mmdet.core import bbox2roi

from pipeline.methods.shared import inside


def write(training, base, novel):
    """Write what `compute` finds about validation objects; arguments and errors as of `inside.write`."""
    inside.write(
        training, base, novel, lambda model, objects: compute(model, objects.image, objects.boxes, objects.labels)
    )


@torch.no_grad()
def compute(model, image, boxes, labels):
    """Compute the maps of the objects of one image, as detections of these boxes and categories get them.

    Args:
        model: a detector of OPMask, in evaluation mode.
        image: [1, 3, H, W] network input.
        boxes: [N, 4] (x1, y1, x2, y2) in network-input pixels.
        labels: [N] int64 classes.

    Returns:
        Arrays by name, float32 in [0, 1]: `cams` [N, S, S], zero where the activation is constant; `masks` [N, 2S, 2S],
        probabilities.
    """
    head, x, rois = model.roi_head, model.extract_feat(image), bbox2roi([boxes])
    cam = head.bbox_head.activation_maps(head._bbox_forward(x, rois)["cam_features"], labels)
    found = {
        "cams": head._prior(cam, head.mask_roi_size)[0][:, 0],
        "masks": head._mask_features(x, rois, cam)["mask_pred"][:, 0].sigmoid(),
    }
    return {name: maps.float().cpu().numpy() for name, maps in found.items()}
