"""The three steps of ShapeMask from the features of an outer box to a mask: shape prior, coarse mask, fine mask.

Section 3 of Kuo et al., ICCV 2019; layers and normalisers as in the released code (github.com/tensorflow/tpu 7dc921f,
models/official/detection), except that no normaliser counts a mask of a novel category.

Legend: R RoIs, F channels of the pyramid, C of the branch, S cells on a side, U upsampling, K clusters of shapes, M
classes of the head: 1, or that of the RoI chooses among them.
"""

import math

import torch
import torch.nn.functional as F
from mmcv.runner import BaseModule
from mmdet.models.builder import HEADS
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import Tensor, nn

from pipeline.methods.shared.shapemask import geometry, priors
from pipeline.methods.shared.shapemask.batch_norm import InstanceBatchNorm

EPSILON = 1e-4  # of batch norm
FOREGROUND = 0.01  # probability that predictors begin with
SPREAD = 0.01  # standard deviation of initial kernels


class ShapePrior(nn.Module):
    """Guess the shape in a box as a mixture of cluster centres (section 3.2).

    Args:
        in_channels, channels: F and C.
        num_priors: K.
        cells: S.
        classes: M; those that have centres of their own.
    """

    def __init__(self, in_channels, channels, num_priors, cells, classes=1):
        super().__init__()
        self.classes = classes
        self.dense = nn.Linear(in_channels, channels)
        self.classify = nn.Linear(channels, classes * num_priors)
        # Part of the state: a trained model needs no file of priors.
        self.register_buffer("centres", torch.zeros(classes, num_priors, cells, cells))

    def init_weights(self):
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        nn.init.normal_(self.classify.weight, std=SPREAD)
        nn.init.zeros_(self.classify.bias)

    def forward(self, crops: Tensor, boxes: Tensor, frames: Tensor, labels: Tensor | None = None):
        """Reduce the features and estimate the prior.

        Args:
            crops: [R, F, S, S] features of the frames.
            boxes: [R, 4], where the objects are.
            frames: [R, 4], their outer boxes.
            labels: [R] int64, for several classes.

        Returns:
            Features [R, C, S, S], prior [R, S, S] in [0, 1] in the frame, and weights of the centres [R, K].
        """
        features = self.dense(crops.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        inside = geometry.in_other_box(torch.ones_like(crops[:, 0]), boxes, frames)
        pooled = (features * inside[:, None]).mean((2, 3))
        weights = _of_class(self.classify(pooled).unflatten(1, (self.classes, -1)), labels).softmax(1)
        centres = self.centres[labels] if len(self.centres) > 1 else self.centres.expand(len(boxes), -1, -1, -1)
        mixed = torch.einsum("rk,rkhw->rhw", weights, centres)
        return features, geometry.in_other_box(mixed, boxes, frames), weights


class Decoder(nn.Module):
    """Convolutions with batch norm, upsampling if any, and the predictor.

    No activation stands between upsampling and predictor, so both are one transposed convolution to the logits: the C
    channels of the U S x U S cells never exist.

    Args:
        channels: C.
        convs: 3x3 convolutions.
        upsampling: U; 1 without.
        classes: M.
        norm: arguments of `InstanceBatchNorm`.
    """

    def __init__(self, channels, convs, upsampling, classes, norm):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs))
        self.norms = nn.ModuleList(InstanceBatchNorm(channels, eps=EPSILON, **norm) for _ in range(convs))
        self.upsample = nn.ConvTranspose2d(channels, channels, upsampling, upsampling) if upsampling > 1 else None
        self.predict = nn.Conv2d(channels, classes, 1)

    def init_weights(self):
        for conv in (*self.convs, self.predict):
            nn.init.normal_(conv.weight, std=SPREAD)
            nn.init.zeros_(conv.bias)
        if self.upsample is not None:
            nn.init.xavier_uniform_(self.upsample.weight)
            nn.init.zeros_(self.upsample.bias)
        nn.init.constant_(self.predict.bias, -math.log((1 - FOREGROUND) / FOREGROUND))

    def forward(self, features: Tensor) -> Tensor:
        """Predict logits [R, M, U S, U S] from [R, C, S, S]."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            features = norm(conv(features)).relu()
        if self.upsample is None:
            return self.predict(features)
        predict = self.predict.weight[:, :, 0, 0]
        weight = torch.einsum("ioyx,mo->imyx", self.upsample.weight, predict)
        bias = self.predict.bias + predict @ self.upsample.bias
        return F.conv_transpose2d(features, weight, bias, stride=self.upsample.stride)


class MapAdded(nn.Module):
    """What coarse and fine branch share: a map, lifted to the channels of the features, is added; then a decoder.

    Args:
        channels: C.
        kwargs: as `Decoder`.
    """

    def __init__(self, channels, **kwargs):
        super().__init__()
        self.dense = nn.Linear(1, channels)
        self.decoder = Decoder(channels, **kwargs)

    def init_weights(self):
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.decoder.init_weights()

    def decode(self, features: Tensor, added: Tensor, labels: Tensor | None) -> Tensor:
        """Logits [R, U S, U S] of features [R, C, S, S] and a map [R, S, S]."""
        lifted = self.dense(added[..., None]).permute(0, 3, 1, 2)
        return _of_class(self.decoder(features + lifted), labels)


class CoarseMask(MapAdded):
    """Decode features and prior to a mask (section 3.3)."""

    def forward(self, features: Tensor, prior: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [R, S, S] from features [R, C, S, S] and prior [R, S, S]."""
        return self.decode(features, prior, labels)


class FineMask(MapAdded):
    """Decode what tells the features of a RoI from their mean over its coarse mask (section 3.4).

    The mean has no gradient through the choice of its cells; the coarse probabilities, which are added, do.
    """

    def forward(self, features: Tensor, coarse: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [R, U S, U S] from the features of `ShapePrior` [R, C, S, S] and coarse logits [R, S, S]."""
        probabilities = coarse.sigmoid()
        chosen = (probabilities > 0.5).float()[:, None]
        # In half precision a sum over so many cells would overflow; 0 where no cell is chosen.
        embedding = (features.float() * chosen).sum((2, 3)) / chosen.sum((2, 3)).clamp(min=1)
        return self.decode(features - embedding[..., None, None], probabilities, labels)


def _of_class(values, labels):
    """Of [R, M, ...] those of each RoI's class: [R, ...]."""
    if values.shape[1] == 1:
        return values[:, 0]
    return values[torch.arange(len(values), device=values.device), labels]


def prior_loss(prior: Tensor, targets: Tensor, in_loss: Tensor) -> Tensor:
    """Half the squared error over the cells of the RoIs in the loss, by the number of their foreground cells.

    Args:
        prior, targets: [R, S, S].
        in_loss: [R] bool. What the targets of other RoIs are makes no difference, to the normaliser either.

    Returns:
        A scalar; 0, with its graph, without a RoI in the loss.
    """
    return 0.5 * _by_foreground((targets - prior).square(), targets, in_loss)


def mask_loss(logits: Tensor, targets: Tensor, in_loss: Tensor) -> Tensor:
    """Binary cross-entropy, otherwise as `prior_loss`."""
    cells = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return _by_foreground(cells, targets, in_loss)


def _by_foreground(cells, targets, in_loss):
    counted = in_loss[:, None, None]
    # Not a product: what is not in the loss may be anything, even infinite.
    return torch.where(counted, cells, 0.0).sum() / torch.where(counted, targets, 0.0).sum().clamp(min=1)


@HEADS.register_module()
class ShapeMaskHead(BaseModule):
    """Shape prior, coarse and fine mask of RoIs whose class makes no difference.

    Args:
        in_channels: F.
        channels: C.
        convs: 3x3 convolutions of each branch.
        cells: S.
        upsampling: U of the fine mask.
        num_priors: K.
        num_classes: number of categories that masks are sorted by.
        norm: arguments of `InstanceBatchNorm`.
        prior_loss_weight: weight of the loss of the prior.
        source: {dataset, key}: of the priors that a training begins with, see `priors.read`. None leaves the centres
            at zero, for a model whose weights are loaded.
    """

    def __init__(
        self,
        in_channels,
        channels,
        convs,
        cells,
        upsampling,
        num_priors,
        num_classes,
        norm,
        prior_loss_weight=0.1,
        source=None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.class_agnostic = True
        self.cells, self.upsampling = cells, upsampling
        self.prior_loss_weight = prior_loss_weight
        self.source = source
        self.prior = ShapePrior(in_channels, channels, num_priors, cells)
        self.coarse = CoarseMask(channels, convs=convs, upsampling=1, classes=1, norm=dict(norm))
        self.fine = FineMask(channels, convs=convs, upsampling=upsampling, classes=1, norm=dict(norm))

    def init_weights(self):
        """Initialise the layers as the released code does, and load the centres of the training's split.

        Raises ExperimentError if they are not made yet, or damaged.
        """
        super().init_weights()
        if self.source is not None:
            centres = priors.read(**self.source, number=self.prior.centres.shape[1], cells=self.cells)
            self.prior.centres.copy_(torch.from_numpy(centres))

    def forward(self, crops: Tensor, boxes: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Segment RoIs.

        Args:
            crops: [R, F, S, S] features of the frames.
            boxes, frames: [R, 4] the RoIs and their outer boxes.

        Returns:
            'prior' [R, S, S] in [0, 1], 'weights' [R, K] of its centres, 'coarse' [R, S, S] and 'mask_pred'
            [R, 1, U S, U S] logits, all in the frames.
        """
        features, prior, weights = self.prior(crops, boxes, frames)
        coarse = self.coarse(features, prior)
        fine = self.fine(features, coarse)
        return {"prior": prior, "weights": weights, "coarse": coarse, "mask_pred": fine[:, None]}

    def loss(self, predicted: dict[str, Tensor], coarse: Tensor, fine: Tensor, in_loss: Tensor) -> dict[str, Tensor]:
        """The three losses, each by the foreground of the RoIs in the loss.

        Args:
            predicted: as of `forward`.
            coarse, fine: masks [R, S, S] and [R, U S, U S], float32 0/1.
            in_loss: [R] bool.

        Returns:
            {'loss_prior', 'loss_coarse', 'loss_mask'}: scalars.
        """
        return {
            "loss_prior": self.prior_loss_weight * prior_loss(predicted["prior"].float(), coarse, in_loss),
            "loss_coarse": mask_loss(predicted["coarse"].float(), coarse, in_loss),
            "loss_mask": mask_loss(predicted["mask_pred"][:, 0].float(), fine, in_loss),
        }

    # It pastes masks into boxes and reads `class_agnostic` and `num_classes` alone.
    get_seg_masks = FCNMaskHead.get_seg_masks
