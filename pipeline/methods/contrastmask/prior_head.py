"""ContrastMask's heads with another prior of novel RoIs than the CAM: masks, or points and scribbles.

Legend: R positive RoIs, G objects of an image, S sides (foreground, background), K points of one, N cells on a side.
"""

from dataclasses import dataclass

import torch
from mmdet.models.builder import HEADS
from torch import Tensor

from pipeline.methods.contrastmask.cl_head import ContrastiveHead
from pipeline.methods.contrastmask.roi_head import ContrastMaskRoIHead


@dataclass(frozen=True)
class Prior:
    """What is known of RoIs beside their CAM.

    Attributes:
        masks: [R, N, N] bool; not looked at where `masked` is False.
        masked: [R] bool, whether a mask parts the RoI: of base RoIs their own, of novel ones the prior's.
        near: [S, R, N, N] bool, cells in reach of the points of a side.
        marked: [R] bool, novel RoIs whose object has points.
    """

    masks: Tensor
    masked: Tensor
    near: Tensor
    marked: Tensor


@HEADS.register_module()
class PriorContrastiveHead(ContrastiveHead):
    """`ContrastiveHead` whose `loss` takes a `Prior` for the masks. Novel RoIs without one are parted by their CAM.

    RoIs that a mask parts have hard and easy keys by its edge, as under oracle supervision; those with points have
    none, as those with a CAM. In the statistics RoIs that a mask parts count as base, the others as novel.

    Args:
        rest: cells out of reach of the points: 'none', in no set, or by the 'cam'.
        kwargs: as `ContrastiveHead`, with `supervision` 'all'.
    """

    def __init__(self, rest, **kwargs):
        super().__init__(**kwargs)
        self.rest = rest

    def loss(self, encoded, masks, cams, has_prior, is_novel, warmup_weight, generator):
        """As `ContrastiveHead.loss`; `masks` is a `Prior`."""
        prior = masks
        # NaN compares as False: such a cell is in no set.
        rest = torch.where(has_prior[:, None, None], cams, torch.nan) if self.rest == "cam" else torch.nan
        marked = torch.where(prior.near[0], 1.0, torch.where(prior.near[1], 0.0, rest))
        cams = torch.where(prior.marked[:, None, None], marked, cams)
        has_prior = has_prior | prior.marked
        loss, statistics = super().loss(encoded, prior.masks, cams, has_prior, ~prior.masked, warmup_weight, generator)
        given = prior.marked | (prior.masked & is_novel)
        return loss, statistics | {"prior_rois": given.sum()}


@HEADS.register_module()
class PriorContrastMaskRoIHead(ContrastMaskRoIHead):
    """`ContrastMaskRoIHead` whose `cl_head` is a `PriorContrastiveHead`.

    Args:
        prior_radius: reach of a point, as a share of the RoI's side.
        kwargs: as `ContrastMaskRoIHead`.
    """

    def __init__(self, prior_radius, **kwargs):
        super().__init__(**kwargs)
        self.prior_radius = prior_radius

    def _further_losses(self, positives, gt_prior_masks=None, gt_prior_given=None, gt_prior_points=None):
        """The contrastive loss.

        Args:
            positives: `Positives`.
            gt_prior_masks: masks per image, in the order of the boxes.
            gt_prior_given: [G] bool per image, which of them there are.
            gt_prior_points: [G, S, K, 2] per image, x and y, NaN where there is no point.

        Raises ValueError without masks and without points.
        """
        if gt_prior_masks is None and gt_prior_points is None:
            raise ValueError("gt_prior_masks or gt_prior_points is missing: the training pipeline must collect one")
        novel, size = positives.is_novel, self.cl_roi_size
        if size == self.train_cfg.mask_size:
            masks = positives.masks
        else:
            masks = self._mask_targets(positives.sampled, positives.gt_masks, size) & ~novel[:, None, None]
        masked, marked = ~novel, torch.zeros_like(novel)
        near = torch.zeros_like(masks).expand(2, *masks.shape)
        if gt_prior_masks is not None:
            owners = [image.pos_assigned_gt_inds for image in positives.sampled]
            given = [flags.to(novel.device)[rows] for flags, rows in zip(gt_prior_given, owners, strict=True)]
            given = torch.cat(given) & novel
            priors = self._mask_targets(positives.sampled, gt_prior_masks, size)
            masks, masked = masks | (priors & given[:, None, None]), masked | given
        if gt_prior_points is not None:
            parts = [
                self._near(image, points.to(novel.device))
                for image, points in zip(positives.sampled, gt_prior_points, strict=True)
            ]
            near, marked = (torch.cat(part, dim) for part, dim in zip(zip(*parts, strict=True), (1, 0), strict=True))
            marked = marked & novel
        prior = Prior(masks, masked, near, marked)
        return self._contrastive_loss(positives.features["encoded"], prior, positives.cam, novel)

    def _near(self, image, points):
        """Cells [S, p, N, N] bool in reach of the points of an image's RoIs, and [p] bool, whether there are any."""
        points = points[image.pos_assigned_gt_inds]
        near = cells_near(image.pos_bboxes, points, self.prior_radius, self.cl_roi_size)
        return near, ~points[..., 0].isnan().flatten(1).all(1)


def cells_near(boxes: Tensor, points: Tensor, radius: float, size: int) -> Tensor:
    """Give cells to the side whose points they are near.

    Args:
        boxes: [R, 4].
        points: [R, S, K, 2] of each RoI's object, x and y in the frame of the boxes, NaN where there is none.
        radius: share of the RoI's side, so that it means as much of a wide RoI as of a high one.
        size: cells on a side.

    Returns:
        [S, R, size, size] bool: cells whose centre is within the radius of a point of the side, and closer to it than
        to any point of the other.
    """
    corner, extent = boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    places = (points - corner[:, None, None]) / extent[:, None, None]  # [R, S, K, x and y] in sides of the RoI
    centres = (torch.arange(size, device=boxes.device) + 0.5) / size
    squares = (places[..., None] - centres).square()  # [R, S, K, x and y, size]
    distances = squares[..., 1, :, None] + squares[..., 0, None, :]
    foreground, background = torch.where(distances.isnan(), torch.inf, distances).amin(2).unbind(1)
    return torch.stack(
        [
            (foreground <= radius**2) & (foreground < background),
            (background <= radius**2) & (background < foreground),
        ]
    )
