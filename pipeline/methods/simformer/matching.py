"""Which query is to give which target: the cheapest one-to-one assignment of each image and decoder layer.

The costs of all layers and images go to the host together, so a step waits for the device once. A target without a
mask costs its class alone, and the columns stay in the order of the targets (D7, D7b).

Legend: L decoder layers, B images, Q queries, T targets, K classes, h and w cells of predicted masks.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pipeline.methods.simformer.targets import Targets

ALPHA, GAMMA = 0.25, 2  # of the focal loss
WORST = 1e6  # instead of a cost that is no number; the losses show that, too


@dataclass(frozen=True)
class Matched:
    """Pairs of query and target of one decoder layer.

    Attributes:
        image, query, target: int64 [M] of all pairs, by image and query.
        masked: int64 [m] positions of those whose target has a mask.
        novel_images: int64 [N], images with targets without mask.
        novel_queries: int64 [N, n] the queries that are matched to those, filled up with -1.
    """

    image: Tensor
    query: Tensor
    target: Tensor
    masked: Tensor
    novel_images: Tensor
    novel_queries: Tensor


def mask_costs(masks: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice cost of every query with every mask, unweighted.

    Args:
        masks: [B, Q, h, w] logits.
        targets: [B, T, h, w] bool.

    Returns:
        [B, Q, T] focal, mean over pixels, and [B, Q, T] dice.
    """
    logits, truth = masks.flatten(2).float(), targets.flatten(2).float().transpose(1, 2)
    probability = logits.sigmoid()
    if_set = ALPHA * (1 - probability) ** GAMMA * F.softplus(-logits)
    if_not = (1 - ALPHA) * probability**GAMMA * F.softplus(logits)
    focal = (if_set @ truth + if_not @ (1 - truth)) / logits.shape[-1]
    both = 2 * probability @ truth
    either = probability.sum(-1)[..., None] + truth.sum(1)[:, None]
    return focal, 1 - (both + 1) / (either + 1)


@torch.no_grad()
def cost_matrix(logits: Tensor, masks: Tensor, targets: Targets, small: Tensor, focal: float, dice: float) -> Tensor:
    """Cost [B, Q, T] of every query with every target of its image.

    A mask that is too small for the predictions, as it were without, costs its class alone.

    Args:
        logits: [B, Q, K + 1].
        masks: [B, Q, h, w] logits.
        targets: of the images.
        small: [B, T, h, w] their masks at the size of the predictions.
        focal, dice: weights.
    """
    probabilities = logits.float().softmax(-1)
    labels = targets.labels[:, None].expand(-1, logits.shape[1], -1)
    by_mask, by_overlap = mask_costs(masks, small)
    seen = small.flatten(2).any(2)[:, None]
    return torch.where(seen, focal * by_mask + dice * by_overlap, 0.0) - probabilities.gather(2, labels)


@torch.no_grad()
def match(all_logits: Tensor, all_masks: Tensor, targets: Targets, focal: float, dice: float) -> list[Matched]:
    """Match the queries of every decoder layer with the targets.

    Args:
        all_logits: [L, B, Q, K + 1].
        all_masks: [L, B, Q, h, w].
        targets: of the images; of more targets than queries the cheapest ones are matched.
        focal, dice: weights of the costs; the class has weight 1.
    """
    small = targets.masks(all_masks.shape[-2:])
    costs = torch.stack(
        [
            cost_matrix(logits, masks, targets, small, focal, dice)
            for logits, masks in zip(all_logits, all_masks, strict=True)
        ]
    )
    costs = np.nan_to_num(costs.cpu().numpy(), nan=WORST, posinf=WORST, neginf=-WORST)
    return _on(all_logits.device, [assigned(layer, targets) for layer in costs])


def assigned(costs: np.ndarray, targets: Targets) -> list[np.ndarray]:
    """The fields of `Matched` on the host, from costs [B, Q, T] of one layer."""
    rows, novel = [], {}
    for image, (cost, base, count) in enumerate(zip(costs, targets.base, targets.counts, strict=True)):
        queries, columns = linear_sum_assignment(cost[:, :count])
        rows.append(np.stack([np.full_like(queries, image), queries, columns, columns < base]))
        if (columns >= base).any():
            novel[image] = queries[columns >= base]
    image, query, target, has_mask = np.concatenate(rows, axis=1)
    most = max((len(queries) for queries in novel.values()), default=0)
    padded = [np.pad(queries, (0, most - len(queries)), constant_values=-1) for queries in novel.values()]
    padded = np.array(padded, dtype=np.int64).reshape(len(novel), most)
    return [image, query, target, np.flatnonzero(has_mask), np.array(list(novel), dtype=np.int64), padded]


def _on(device, layers):
    """Put the arrays of all layers on a device in one copy."""
    arrays = [array for layer in layers for array in layer]
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]).astype(np.int64)).to(device)
    parts = flat.split([array.size for array in arrays])
    tensors = [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]
    width = len(layers[0])
    return [Matched(*tensors[start : start + width]) for start in range(0, len(tensors), width)]
