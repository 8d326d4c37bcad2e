"""Class activation maps (CAM) of RoIs: the localisation cue that base and novel categories share.

Legend: R RoIs, C channels, h and w cells of the box head's feature, H and W cells of a target map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# A map whose span is below this fraction of its largest absolute value holds rounding noise only.
FLAT_SPAN = 1e-6


def class_activation_maps(features: Tensor, classifier_rows: Tensor) -> Tensor:
    """Weigh each RoI's feature map by the classifier row of one class (paper section 3.1; no bias, no ReLU).

    Only the rows that are needed enter, so the maps of all classes never exist. The mean of a map plus the class's bias
    is the class's logit.

    Args:
        features: [R, C, h, w], output of the last convolution of the classification branch.
        classifier_rows: [R, C], row of the classifier weight for each RoI's class.

    Returns:
        [R, 1, h, w] float32, unbounded.
    """
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum("rchw,rc->rhw", features.float(), classifier_rows.float())[:, None]


def resize_map(maps: Tensor, size: int) -> Tensor:
    """Resize [R, C, h, w] to [R, C, size, size] bilinearly with half-pixel centres; the same size is left alone."""
    if maps.shape[-2:] == (size, size):
        return maps
    if maps.shape[0] == 0:
        return maps.new_zeros(0, maps.shape[1], size, size)
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)


def min_max_normalise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each RoI's map to [0, 1].

    A constant map, or one with a NaN, says nothing about where the object is: it becomes zero, carries no gradient
    and is reported as no prior, instead of dividing by zero.

    Args:
        maps: [R, 1, H, W].

    Returns:
        The maps [R, 1, H, W] float32 in [0, 1], and [R] bool: whether the map is a prior.
    """
    maps = maps.float()
    if maps.shape[0] == 0:
        return maps, maps.new_zeros(0, dtype=torch.bool)
    flat = maps.flatten(1)
    # NaNs are replaced before anything else: behind an unselected branch they would still make NaN gradients.
    finite = (flat.amax(1, keepdim=True) - flat.amin(1, keepdim=True)).isfinite()
    flat = torch.where(finite, flat, 0.0)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    span = high - low
    is_prior = span > FLAT_SPAN * torch.maximum(high.abs(), low.abs())
    scaled = torch.where(is_prior, flat - low, 0.0) / torch.where(is_prior, span, 1.0)
    return scaled.view_as(maps), is_prior.squeeze(1)
