"""MaskFormer's losses where only some targets have masks, and the complementary loss of those without.

Legend: B images, Q queries, K classes, M masks, H and W pixels of the padded images, h and w cells of predictions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.methods.simformer.matching import ALPHA, GAMMA, Matched
from pipeline.methods.simformer.targets import Targets

NOT_COUNTED = -100  # cross_entropy's `ignore_index`


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Sigmoid focal loss [M] of masks [M, ...], mean over pixels (Lin et al., arXiv 1708.02002)."""
    logits, truth = logits.flatten(1), truth.flatten(1).to(logits.dtype)
    probability = logits.sigmoid()
    wrong = torch.where(truth > 0, 1 - probability, probability)
    weight = ALPHA * truth + (1 - ALPHA) * (1 - truth)
    return (weight * wrong**GAMMA * F.binary_cross_entropy_with_logits(logits, truth, reduction="none")).mean(1)


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice loss [M] of masks [M, ...], one pixel of smoothing, as MaskFormer has it."""
    probability, truth = logits.flatten(1).sigmoid(), truth.flatten(1).to(logits.dtype)
    return 1 - (2 * (probability * truth).sum(1) + 1) / (probability.sum(1) + truth.sum(1) + 1)


def class_loss(logits: Tensor, matched: Matched, targets: Targets, weight: Tensor, seen: Tensor) -> Tensor:
    """Cross entropy over classes and "no object", weighted mean over the queries of the batch.

    Args:
        logits: [B, Q, K + 1].
        matched: of these predictions.
        targets: of the images.
        weight: [K + 1] of the classes.
        seen: [B] bool, False for images without a map: which base classes they show is not known, so of those a query
            without a target counts for nothing.
    """
    nothing = torch.where(seen, logits.shape[2] - 1, NOT_COUNTED)
    wanted = nothing[:, None].repeat(1, logits.shape[1])
    wanted[matched.image, matched.query] = targets.labels[matched.image, matched.target]
    return F.cross_entropy(logits.transpose(1, 2), wanted, weight)


def mask_losses(masks: Tensor, matched: Matched, targets: Targets, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of the queries matched to targets with masks, at full size.

    Args:
        masks: [B, Q, h, w] logits.
        matched: of these predictions.
        targets: of the images.
        normaliser: [] number of masks that the sums are divided by.
    """
    image, query, target = (index[matched.masked] for index in (matched.image, matched.query, matched.target))
    if not len(image):
        nothing = masks[:0].sum()
        return nothing, nothing
    logits = upsampled(masks[image, query][:, None], targets.maps.shape[-2:])[:, 0]
    truth = targets.maps[image] == targets.labels[image, target][:, None, None]
    return focal_loss(logits, truth).sum() / normaliser, dice_loss(logits, truth).sum() / normaliser


def complementary_loss(
    masks: Tensor, matched: Matched, targets: Targets, inside: Tensor, floor: Tensor, focal: float, dice: float
) -> Tensor:
    """What the novel proposals of an image cover together should be all that is not base (section 7).

    The mean over images with novel targets and a pixel that is not base; 0 without any (D8).

    Args:
        masks: [B, Q, h, w] logits.
        matched: of these predictions.
        targets: of the images.
        inside: [B, H, W] bool, False in the padding.
        floor: [] logit that the largest logit of the proposals is not below: what is lower need not rise.
        focal, dice: weights.
    """
    images, queries = matched.novel_images, matched.novel_queries
    if not len(images):
        return masks[:0].sum()
    proposals = masks[images[:, None], queries.clamp(min=0)]
    logits = upsampled(proposals, targets.maps.shape[-2:])
    logits = torch.where((queries >= 0)[..., None, None], logits, floor).amax(1)
    logits = torch.maximum(logits, floor)
    truth = inside[images] & ~known(targets.maps[images], targets.num_classes)
    counted = truth.flatten(1).any(1).to(logits.dtype)
    losses = focal * focal_loss(logits, truth) + dice * dice_loss(logits, truth)
    return (counted * losses).sum() / (counted.sum() + 1e-5)


def known(maps: Tensor, num_classes: int) -> Tensor:
    """Pixels of maps [..., H, W] that have a class: base pixels."""
    return (maps >= 0) & (maps < num_classes)


def upsampled(masks: Tensor, size) -> Tensor:
    """Logits [N, n, h, w] at a size, as MaskFormer does."""
    return F.interpolate(masks, tuple(size), mode="bilinear", align_corners=False)
