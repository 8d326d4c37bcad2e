"""Foreground/background partition of RoIs and their hard and easy candidate keys (paper section 3.2).

Legend: R RoIs, H and W cells; all sets are bool maps. A set axis of length 4 is ordered easy positive, easy negative,
hard positive, hard negative; a side axis of length 2 is ordered foreground, background.

"Masked" RoIs take their partition from a ground-truth mask (base categories; every RoI in oracle mode), the others
from their normalised CAM.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .edges import dilate, mask_edges

EASY_POSITIVE, EASY_NEGATIVE, HARD_POSITIVE, HARD_NEGATIVE = range(4)
FOREGROUND, BACKGROUND = range(2)

# A masked RoI with fewer cells than this on one side takes that side from its CAM (D14), at these thresholds.
TINY_SIDE_CELLS = 2
TINY_FOREGROUND_ABOVE = 0.95
TINY_BACKGROUND_BELOW = 0.05


@dataclass(frozen=True)
class PartitionRule:
    """How cells become foreground, background, hard and easy.

    Attributes:
        delta: CAM threshold of RoIs without a mask, in (0, 0.5).
        key_scale: scales delta for keys, not for queries (D27).
        threshold: 'inclusive' a >= 1 - delta, a <= delta; 'strict' a > 1 - delta, a < delta (D13).
        tiny_mask_fallback: whether a side with fewer than 2 mask cells is taken from the CAM (D14).
        hard_easy_rule: 'paper' hard is within squared distance 2 of the edge band, the band included; 'band' hard is
            that ring without the band, edge cells inside the mask are easy and those outside are in no set (D18).
        min_keys: smallest size of each of the four sets for a RoI to take part (D16).
    """

    delta: float
    key_scale: float
    threshold: str
    tiny_mask_fallback: bool
    hard_easy_rule: str
    min_keys: int


def confident_cells(cams: Tensor, delta: float, threshold: str) -> Tensor:
    """Split CAMs into confident foreground and background.

    Args:
        cams: [R, H, W] in [0, 1].
        delta: threshold in (0, 0.5).
        threshold: 'inclusive' or 'strict'.

    Returns:
        [2, R, H, W] bool: foreground, background.
    """
    if threshold == "inclusive":
        return torch.stack([cams >= 1 - delta, cams <= delta])
    return torch.stack([cams > 1 - delta, cams < delta])


def query_partition(masks: Tensor, cams: Tensor, masked: Tensor, has_prior: Tensor, rule: PartitionRule) -> Tensor:
    """Partition each RoI into the cells averaged into its foreground and its background query.

    Args:
        masks: [R, H, W] bool; not looked at where `masked` is False.
        cams: [R, H, W] in [0, 1].
        masked: [R] bool, whether the RoI's mask may be used.
        has_prior: [R] bool, whether the CAM says anything (`min_max_normalise`).
        rule: thresholds.

    Returns:
        [2, R, H, W] bool: foreground, background; both empty for a RoI with neither mask nor prior.
    """
    prior = has_prior[:, None, None]
    from_cam = confident_cells(cams, rule.delta, rule.threshold) & prior
    from_mask = torch.stack([masks, ~masks])
    if rule.tiny_mask_fallback:
        tiny = (from_mask.sum((-2, -1)) < TINY_SIDE_CELLS)[..., None, None]
        fallback = torch.stack([cams > TINY_FOREGROUND_ABOVE, cams < TINY_BACKGROUND_BELOW]) & prior
        from_mask = torch.where(tiny, fallback, from_mask)
    return torch.where(masked[:, None, None], from_mask, from_cam)


def key_candidates(masks: Tensor, cams: Tensor, masked: Tensor, has_prior: Tensor, rule: PartitionRule) -> Tensor:
    """Collect the four candidate key sets of each RoI (Eq. 3; without a mask hard and easy are the same set).

    Args:
        masks, cams, masked, has_prior, rule: as for `query_partition`.

    Returns:
        [4, R, H, W] bool.
    """
    edges = mask_edges(masks)
    near = dilate(edges)
    if rule.hard_easy_rule == "paper":
        hard = near
        easy_negative = ~masks & ~near
    else:
        hard = near & ~edges
        easy_negative = ~masks & ~near
    from_mask = torch.stack([masks & ~hard, easy_negative, masks & hard, ~masks & hard])
    confident = confident_cells(cams, rule.delta * rule.key_scale, rule.threshold) & has_prior[:, None, None]
    from_cam = torch.cat([confident, confident])
    return torch.where(masked[:, None, None], from_mask, from_cam)


def keep_rois(candidates: Tensor, min_keys: int) -> Tensor:
    """Keep a RoI when each of its four candidate sets has at least `min_keys` cells (D16).

    Args:
        candidates: [4, R, H, W] bool.
        min_keys: smallest set size.

    Returns:
        [R] bool.
    """
    return (candidates.sum((-2, -1)) >= min_keys).all(dim=0)
