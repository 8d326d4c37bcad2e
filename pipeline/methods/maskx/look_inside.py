"""What a trained Mask^X R-CNN makes of validation objects: the transferred weights of their categories, and masks.

Ground-truth boxes and categories stand for detections; no mask is looked at. Legend: N objects, K classes, C channels,
S cells on a side.
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
    """Segment the objects of one image in their boxes, with the weights of their own and of all other categories.

    Args:
        model: a detector of Mask^X R-CNN, in evaluation mode.
        image: [1, 3, H, W] network input.
        boxes: [N, 4] (x1, y1, x2, y2) in network-input pixels.
        labels: [N] int64 classes.

    Returns:
        Arrays by name, float32: `weights` [N, C], transferred to the category of each object; `masks` [N, 2S, 2S],
        probabilities in [0, 1]; `others` [N, 2S, 2S], the mean of those with the weights of each other class.
    """
    head, rois = model.roi_head, bbox2roi([boxes])
    features = head.mask_roi_extractor(model.extract_feat(image)[: head.mask_roi_extractor.num_inputs], rois)
    weights = head.mask_head.transfer(head.bbox_head.class_vectors(head.transfer_from, head.detach_weights))
    x = head.mask_head.features(features)
    common = 0 if head.mask_head.mlp is None else head.mask_head.mlp(x.flatten(1)).view_as(x[:, :1])
    of_classes = (torch.einsum("nchw,kc->nkhw", x, weights) + common).sigmoid()
    masks = of_classes[torch.arange(len(labels), device=labels.device), labels]
    found = {
        "weights": weights[labels],
        "masks": masks,
        "others": ((of_classes.sum(1) - masks) / max(len(weights) - 1, 1)).clamp(min=0),
    }
    return {name: values.float().cpu().numpy() for name, values in found.items()}
