"""The pixel-level contrastive loss between shared queries and sampled keys (paper Eqs. 1, 2 and 4).

Legend: R RoIs, C channels, P cells of a RoI. Key sets are ordered as in `partition`. The four terms are ordered
foreground query with easy keys, foreground query with hard keys, background query with easy keys, background query with
hard keys.

Every similarity follows from k.q, |k| and |q|, so keys are never gathered: sets are masks over all cells.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from pipeline.methods.contrastmask.partition import (
    BACKGROUND,
    EASY_NEGATIVE,
    EASY_POSITIVE,
    FOREGROUND,
    HARD_NEGATIVE,
    HARD_POSITIVE,
)
from pipeline.training.collectives import exchange_group, world_size

# (query, its positive keys, its negative keys, which temperature). The paper prints each key set twice (D20) and drops
# the sign of the background query (D21); these are the pairs its text describes.
TERMS = (
    (FOREGROUND, EASY_POSITIVE, EASY_NEGATIVE, "tau_easy"),
    (FOREGROUND, HARD_POSITIVE, HARD_NEGATIVE, "tau_hard"),
    (BACKGROUND, EASY_NEGATIVE, EASY_POSITIVE, "tau_easy"),
    (BACKGROUND, HARD_NEGATIVE, HARD_POSITIVE, "tau_hard"),
)

# Relative to |k|^2 + |q|^2: below it the difference of a key and a query is rounding noise and has no direction.
NO_DIRECTION = 1e-6


@dataclass(frozen=True)
class LossForm:
    """Which of the published and released forms of the loss is computed.

    Attributes:
        tau_easy, tau_hard: temperatures of easy and hard keys (D5).
        similarity: 'cosine' cos(q, k); 'centred' cos(q, k - q) (D7).
        denominator: 'temperature' divides the positive's own term in the denominator by the temperature too; 'plain'
            does not (D6).
        pooling: 'roi' each RoI's keys are contrasted with its own negatives and RoIs are averaged; 'batch' the keys of
            all RoIs form one pool (D10).
    """

    tau_easy: float
    tau_hard: float
    similarity: str
    denominator: str
    pooling: str


def query_weights(partition: Tensor) -> Tensor:
    """Return the weights [R, P, 2] that average a RoI's cells over its foreground and over its background.

    Args:
        partition: [2, R, P] bool. The weights of an empty side are zero.
    """
    weights = partition.permute(1, 2, 0).float()
    return weights / weights.sum(1, keepdim=True).clamp(min=1)


def compare_with_queries(
    cells: Tensor, weights: Tensor, contributes: Tensor | None, detach_queries: bool, exchange: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Average cells into queries and multiply every cell with them.

    Args:
        cells: [R, P, C] float32 embeddings.
        weights: [R, P, 2] from `query_weights`.
        contributes: [R, 2] bool, RoIs whose foreground and background enter the two shared queries (Eq. 2); None gives
            each RoI its own queries.
        detach_queries: keep gradients from reaching the cells through the queries.
        exchange: average shared queries over the RoIs of all processes of the training (D12). Every process must call
            this, one without RoIs with R = 0, and go backward through it.

    Returns:
        queries [1, 2, C] (own: [R, 2, C]), zero where nothing contributes; k.q of every cell [R, P, 2]; |k|^2
        [R, P, 1].
    """
    share = None
    if contributes is not None:
        share = contributes.float()
        share = share / _sum_over_processes(share.sum(0), exchange).clamp(min=1)
    return _CellsTimesQueries.apply(cells, weights, share, detach_queries, exchange)


def _sum_over_processes(tensor: Tensor, exchange: bool) -> Tensor:
    """Add a tensor up over the processes of the training, in place."""
    if exchange and world_size() > 1:
        dist.all_reduce(tensor, group=exchange_group())
    return tensor


class _CellsTimesQueries(torch.autograd.Function):
    """`compare_with_queries` with one pass over the cells for their gradient instead of one for each product."""

    @staticmethod
    def forward(ctx, cells, weights, share, detach_queries, exchange):
        own = torch.bmm(weights.transpose(1, 2), cells)
        queries = own
        if share is not None:
            queries = _sum_over_processes((own * share[..., None]).sum(0, keepdim=True), exchange)
        ctx.save_for_backward(cells, weights, share, queries)
        ctx.detach_queries, ctx.exchange = detach_queries, exchange
        return (
            queries,
            torch.matmul(cells, queries.transpose(1, 2)),
            torch.linalg.vector_norm(cells, dim=-1, keepdim=True).square(),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_queries, grad_dots, grad_squares):
        cells, weights, share, queries = ctx.saved_tensors
        left, right = grad_dots, queries.expand(len(cells), -1, -1)
        if not ctx.detach_queries:
            grad_own = torch.bmm(grad_dots.transpose(1, 2), cells)
            if share is None:
                grad_own = grad_own + grad_queries
            else:
                # The losses of all processes depend on an exchanged query.
                grad_own = _sum_over_processes(grad_own.sum(0, keepdim=True) + grad_queries, ctx.exchange)
                grad_own = grad_own * share[..., None]
            left, right = torch.cat([left, weights], dim=2), torch.cat([right, grad_own], dim=1)
        return torch.bmm(left, right).addcmul_(cells, grad_squares, value=2), None, None, None, None


def similarities(queries: Tensor, dots: Tensor, key_squares: Tensor, form: str) -> Tensor:
    """Compare every cell with the foreground and the background query.

    Args:
        queries, dots, key_squares: from `compare_with_queries`.
        form: 'cosine' cos(q, k) or 'centred' cos(q, k - q).

    Returns:
        [2, R, P] in [-1, 1]; 0 where a direction is undefined (a zero key or query, a key equal to the query).
    """
    query_squares = queries.square().sum(-1)[:, None]
    scale = key_squares + query_squares
    if form == "centred":
        key_squares = key_squares - 2 * dots + query_squares
        dots = dots - query_squares
    defined = (key_squares > NO_DIRECTION * scale) & (query_squares > 0)
    squares = torch.where(defined, key_squares * query_squares, 1.0)
    return (torch.where(defined, dots, 0.0) * squares.rsqrt()).permute(2, 0, 1).contiguous()


def contrastive_terms(cosines: Tensor, keys: Tensor, form: LossForm, exchange: bool = False) -> Tensor:
    """Evaluate the four terms of Eq. 4 (Eq. 1 with log-sum-exp).

    Args:
        cosines: [2, R, P] float32 from `similarities`.
        keys: [4, R, P] bool, the sampled keys; nothing is sampled in RoIs that do not take part.
        form: which form of the loss.
        exchange: divide by the mean number of RoIs of a process instead of this one's, so that the mean over processes,
            which data-parallel training takes, is the mean over all RoIs. Pooled keys stay those of one process.

    Returns:
        [4] float32; a term without positive keys is 0.
    """
    return torch.stack(
        [
            _term(cosines[query], keys[positives], keys[negatives], getattr(form, tau), form, exchange)
            for query, positives, negatives, tau in TERMS
        ]
    )


def _term(cosines: Tensor, positives: Tensor, negatives: Tensor, tau: float, form: LossForm, exchange: bool) -> Tensor:
    """Return the mean of -log(exp(s/tau) / denominator) over the positive keys (and over RoIs if not pooled)."""
    if form.pooling == "batch":
        cosines, positives, negatives = (x.reshape(1, -1) for x in (cosines, positives, negatives))
    logits = cosines / tau
    own = logits if form.denominator == "temperature" else cosines
    # -inf without negatives: the positives then have nothing to compete with
    others = torch.where(negatives, logits, -torch.inf).logsumexp(dim=1, keepdim=True)
    # log(exp(own) + exp(others)) - logits, never below zero by rounding when own is logits
    keys = F.softplus(others - own) + (own - logits)
    counts = positives.sum(1)
    roi_losses = torch.where(positives, keys, 0.0).sum(1) / counts.clamp(min=1)
    sharing = world_size() if exchange else 1
    rois = _sum_over_processes((counts > 0).sum().float(), exchange) / sharing
    return roi_losses.sum() / rois.clamp(min=1 / sharing)


def warmup_weight(epoch: float, shape: str, epochs: float) -> float:
    """Return the loss weight lambda at a point of the training (D9): from 0.25 at the start to 1.

    Args:
        epoch: epochs done so far, a fraction inside an epoch.
        shape: 'linear' rises continuously; 'steps' changes at the start of an epoch e to max(0.25, e / epochs).
        epochs: length of the rise; 0 means 1 from the start.
    """
    if epochs == 0:
        return 1.0
    if shape == "steps":
        return min(max(0.25, int(epoch) / epochs), 1.0)
    return 0.25 + 0.75 * min(epoch / epochs, 1.0)
