"""Edge band of a binary mask and the ring around it.

Legend: R RoIs, H and W cells. Masks are bool, indexed [RoI, row, column].
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_edges(masks: Tensor) -> Tensor:
    """Mark the cells where the mask's central-difference gradient is not zero (one-sided at the border).

    Along a contour that is a band two cells wide, one cell on either side. A line one cell wide is not an edge
    itself, its two neighbours are; the border of the map is no edge by itself.

    Args:
        masks: [R, H, W] bool.

    Returns:
        [R, H, W] bool; all False for a mask that is full or empty.
    """
    rows = torch.cat([masks[:, :1], masks, masks[:, -1:]], dim=1)
    columns = torch.cat([masks[:, :, :1], masks, masks[:, :, -1:]], dim=2)
    return (rows[:, 2:] != rows[:, :-2]) | (columns[:, :, 2:] != columns[:, :, :-2])


def dilate(cells: Tensor) -> Tensor:
    """Dilate by one cell in all eight directions: the cells at squared distance 2 or less from a marked one.

    Args:
        cells: [R, H, W] bool.

    Returns:
        [R, H, W] bool; nothing is marked where nothing was.
    """
    padded = F.pad(cells, (1, 1, 1, 1))
    rows = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:]
