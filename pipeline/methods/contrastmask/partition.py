"""Foreground/background partition of RoIs and their hard and easy candidate keys (paper section 3.2).

Legend: R RoIs, H and W cells, P = H * W; all sets are masks over cells. A set axis of length 4 is ordered easy
positive, easy negative, hard positive, hard negative; a side axis of length 2 is ordered foreground, background.

"Masked" RoIs take their partition from a ground-truth mask (base categories; every RoI in oracle mode), the others
from their normalised CAM.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.methods.contrastmask.edges import dilate, mask_edges

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


@dataclass(frozen=True)
class Partition:
    """The sets of a batch of RoIs, P = H * W cells each.

    Attributes:
        sides: [2, R, P] bool, cells averaged into the foreground and the background query.
        candidates: [4, R, P] bool, candidate keys.
        counts: [4, R] int64, sizes of the candidate sets.
    """

    sides: Tensor
    candidates: Tensor
    counts: Tensor

    def keeps(self, min_keys: int) -> Tensor:
        """Return [R] bool: whether each of a RoI's four candidate sets has at least `min_keys` cells (D16)."""
        return (self.counts >= min_keys).all(dim=0)


def partition(masks: Tensor, cams: Tensor, masked: Tensor, has_prior: Tensor, rule: PartitionRule) -> Partition:
    """Partition each RoI and collect its candidate keys (Eq. 3; without a mask hard and easy are the same set).

    Args:
        masks: [R, H, W] bool; not looked at where `masked` is False.
        cams: [R, H, W] in [0, 1].
        masked: [R] bool, whether the RoI's mask may be used.
        has_prior: [R] bool, whether the CAM says anything (`cam.min_max_normalise`).
        rule: thresholds.

    Returns:
        The sets; all empty for a RoI with neither mask nor prior.
    """
    # NaN compares as False, so a RoI without a prior has no confident cell on either side.
    cams = cams.masked_fill(~has_prior[:, None, None], torch.nan).flatten(1)
    # A mask is certain everywhere.
    certain = torch.stack([masks.flatten(1), ~masks.flatten(1)])
    sides = _choose(masked, certain, confident_cells(cams, rule.delta, rule.threshold))
    confident = sides
    if rule.key_scale != 1:
        confident = _choose(masked, certain, confident_cells(cams, rule.delta * rule.key_scale, rule.threshold))
    if rule.tiny_mask_fallback:
        tiny = (count_cells(sides) < TINY_SIDE_CELLS) & masked
        sides = _choose(tiny, torch.stack([cams > TINY_FOREGROUND_ABOVE, cams < TINY_BACKGROUND_BELOW]), sides)
    candidates = confident.repeat(2, 1, 1) & _zones(masks, masked, rule.hard_easy_rule)
    return Partition(sides, candidates, count_cells(candidates))


def count_cells(cells: Tensor) -> Tensor:
    """Count the marked cells of [..., P] bool, as [...] int64."""
    if cells.shape[-1] % 8 or cells.shape[-1] > 8 * 255:
        return cells.sum(-1)
    # Eight cells at a time, a byte each: the bytes of a sum of such words are counts that cannot overflow.
    return cells.contiguous().view(torch.int64).sum(-1, keepdim=True).view(torch.uint8).sum(-1)


def confident_cells(prior: Tensor, delta: float, threshold: str) -> Tensor:
    """Split priors into confident foreground and background.

    Args:
        prior: [R, P] in [0, 1], or NaN.
        delta: threshold in (0, 0.5).
        threshold: 'inclusive' or 'strict'.

    Returns:
        [2, R, P] bool: foreground, background.
    """
    if threshold == "inclusive":
        return torch.stack([prior >= 1 - delta, prior <= delta])
    return torch.stack([prior > 1 - delta, prior < delta])


def _choose(rows, chosen, others):
    """Return `chosen` in the given rows [..., R] and `others` elsewhere, both [..., R, P] bool."""
    return others ^ ((others ^ chosen) & rows[..., None])


def _zones(masks: Tensor, masked: Tensor, hard_easy_rule: str) -> Tensor:
    """Return where the keys of each of the four sets may lie, [4, R, P] bool; anywhere in RoIs without a mask."""
    edges = mask_edges(masks)
    near = dilate(edges)
    hard = near if hard_easy_rule == "paper" else near & ~edges
    anywhere = ~masked[:, None]
    hard_or_any, far_or_any = hard.flatten(1) | anywhere, (~near).flatten(1) | anywhere
    return torch.stack([(~hard).flatten(1) | anywhere, far_or_any, hard_or_any, hard_or_any])
