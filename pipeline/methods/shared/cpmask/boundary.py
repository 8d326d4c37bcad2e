"""Boundaries of masks, the target of CPMask's boundary branch.

Legend: R RoIs, H and W cells of a mask.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def boundary(masks: Tensor) -> Tensor:
    """Cells where dilation and erosion differ: one cell inside of the outline and one outside.

    Outside of the map is background for the dilation and foreground for the erosion, so that no boundary runs along the
    border of a RoI: a full mask has none.

    Args:
        masks: [R, H, W] bool.

    Returns:
        [R, H, W] bool.
    """
    return dilate(masks) ^ erode(masks)


def dilate(masks: Tensor) -> Tensor:
    """Masks [R, H, W] bool grown by the cross of a cell and its four neighbours."""
    return _crosses(masks, outside=False).any(0)


def erode(masks: Tensor) -> Tensor:
    """Masks [R, H, W] bool shrunk by the same cross; what lies outside of the map counts as foreground."""
    return _crosses(masks, outside=True).all(0)


def _crosses(masks, outside):
    """A cell and its four neighbours: [5, R, H, W]."""
    padded = pad(masks, (1, 1, 1, 1), value=outside)
    inner = padded[..., 1:-1, 1:-1]
    vertical = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    horizontal = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    return torch.stack([inner, *vertical, *horizontal])
