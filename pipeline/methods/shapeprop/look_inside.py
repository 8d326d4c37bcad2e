"""What a trained ShapeProp makes of validation objects: saliency, propagated shape, and how much a cell keeps.

Ground-truth boxes and categories stand for detections; no mask is looked at. Legend: N objects, S cells on a side.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import torch
from mmdet.core import bbox2roi

from pipeline.methods.shapeprop.mask_head import positive_share
from pipeline.methods.shapeprop.propagation import normalised
from pipeline.methods.shared import inside
from pipeline.methods.shared.cam import min_max_normalise

CENTRE = 4  # of the nine neighbours, the cell itself


def write(training, base, novel):
    """Write what `compute` finds about validation objects; arguments and errors as of `inside.write`."""
    inside.write(
        training, base, novel, lambda model, objects: compute(model, objects.image, objects.boxes, objects.labels)
    )


@torch.no_grad()
def compute(model, image, boxes, labels):
    """Compute saliency and shape of the objects of one image, as detections of these boxes and categories get them.

    Args:
        model: a detector with a shape head, in evaluation mode.
        image: [1, 3, H, W] network input.
        boxes: [N, 4] (x1, y1, x2, y2) in network-input pixels.
        labels: [N] int64 classes.

    Returns:
        Arrays by name: `saliency` [N, S, S] float32, the class map scaled to [0, 1]; `shapes` [N, S, S] in [0, 1), as
        the mask head gets them; `held` [N, S, S] in [0, 1], the share that a cell keeps in a step of message passing,
        mean over latent channels.
    """
    head = model.roi_head
    features = head._pooled(model.extract_feat(image), bbox2roi([boxes]))
    class_maps, activation_features = head.shape_head.activate(features)
    saliency = head.shape_head.saliency(class_maps, labels)
    weights = head.shape_head.weights(features, activation_features)
    found = {
        "saliency": min_max_normalise(saliency)[0][:, 0],
        "shapes": positive_share(head.shape_head.shapes(saliency, weights))[:, 0],
        "held": normalised(weights)[:, :, CENTRE].mean(1),
    }
    return {name: maps.cpu().numpy() for name, maps in found.items()}
