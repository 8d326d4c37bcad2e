"""Draw keys from candidate sets, batched and reproducible.

Legend: R RoIs, P cells of a RoI; sets are ordered as in `partition`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.methods.contrastmask.partition import Partition, count_cells


@dataclass(frozen=True)
class SamplingRule:
    """How many keys are drawn, and when.

    Attributes:
        sigma: fraction of each set that is drawn, in (0, 1].
        rounding: 'ceil' rounds the exact product up; 'ceil_float32' rounds the float32 product up, which adds a key for
            some set sizes (D17).
        order: 'split_first' draws from each of the four sets; 'sample_first' draws from foreground and background, each
            the union of its easy and hard candidates, and splits what was drawn (D18b).
    """

    sigma: float
    rounding: str
    order: str


def sample_sizes(counts: Tensor, rule: SamplingRule) -> Tensor:
    """Round sigma times each set size up.

    Args:
        counts: set sizes, any shape, integer.

    Returns:
        Number of keys to draw, same shape, int64; at least 1 where the set is not empty, never more than it has.
    """
    if rule.rounding == "ceil_float32":
        sizes = torch.ceil(counts.to(torch.float32) * rule.sigma)
    else:
        # sigma is a decimal fraction without an exact binary form: 0.1 * 30 in float64 already exceeds 3.
        sizes = torch.ceil(counts.to(torch.float64) * rule.sigma - 1e-9)
    return torch.minimum(sizes.long(), counts.long())


def sample_keys(sets: Partition, kept: Tensor, rule: SamplingRule, generator: torch.Generator) -> Tensor:
    """Draw the keys of each RoI uniformly without replacement.

    Args:
        sets: partition and candidates.
        kept: [R] bool, RoIs to draw from.
        rule: how many and in which order.
        generator: source of the draw, on the device of the sets.

    Returns:
        [4, R, P] bool, subsets of the candidates; empty in RoIs that are not kept.
    """
    # Positives and negatives of easy and hard keys, or of both at once: [2, D, R, P], disjoint within a draw.
    pools = torch.stack([sets.candidates[::2], sets.candidates[1::2]])
    if rule.order == "sample_first":
        pools = pools.any(1, keepdim=True)
    drawn = _draw(pools, kept, rule, generator)
    return (sets.candidates.unflatten(0, (2, 2)) & drawn).flatten(0, 1)


def _draw(pools, kept, rule, generator):
    """Draw from pairs of disjoint sets [2, D, R, P] with one sort for both sets of a pair.

    Cells get random numbers in a range of their set's own, so that a sorted RoI holds the first set, then the second,
    then the rest. The number at the end of each set's share is the threshold up to which its cells are drawn.

    Returns:
        [D, 2, R, P] bool: within the first set, the first of each pair is its draw; within the second, the second.
    """
    numbers = _distinct_numbers(pools.shape[1:], generator)
    # Ranges below zero for the first set (lowest) and the second, above for the rest.
    ranges = pools.view(torch.uint8)
    numbers -= (ranges[0] * 2 + ranges[1]).to(torch.int32) << 30
    counts = count_cells(pools).movedim(0, -1)
    sizes = sample_sizes(counts, rule) * kept[:, None]
    last = sizes - 1
    last[..., 1] += counts[..., 0]
    threshold = torch.where(sizes > 0, _sort(numbers).gather(-1, last.clamp(min=0)), torch.iinfo(torch.int32).min)
    return numbers[:, None] <= threshold.movedim(-1, 1)[..., None]


def _distinct_numbers(shape, generator):
    """Return random int32 in [1, 2^30), no two alike in a row: the low bits of a number are its cell's index.

    Cells whose random bits agree (20 bits for 28x28 cells) come in the order of their indices.
    """
    numbers = torch.empty(shape, dtype=torch.int32, device=generator.device).random_(generator=generator)
    index_bits = shape[-1].bit_length()
    numbers >>= 1
    numbers &= -1 << index_bits
    numbers |= torch.arange(1, shape[-1] + 1, dtype=torch.int32, device=generator.device)
    return numbers


def _sort(rows: Tensor) -> Tensor:
    """Sort each row. On a CPU numpy does it with vector instructions, thirty times as fast as torch."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.sort(rows.numpy(), axis=-1))
    return rows.sort(dim=-1).values
