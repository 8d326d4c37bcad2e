"""Shape head of ShapeProp: from class activation to a shape by learned message passing.

Legend: R RoIs, C channels, K categories, L latent channels, H and W cells of a RoI.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, kaiming_init
from mmcv.runner import BaseModule
from mmdet.models.builder import HEADS
from torch import Tensor, nn

from pipeline.methods.shapeprop.propagation import NEIGHBOURS, propagate


def convolutions(inputs, channels, last_linear=True, norm_cfg=None) -> nn.Sequential:
    """3x3 convolutions with ReLU between them, Kaiming-normal by fan-out, biases 0.

    Args:
        inputs: channels of the input.
        channels: of each convolution's output.
        last_linear: without an activation and a normalisation after the last one.
        norm_cfg: normalisation.
    """
    layers = []
    for index, outputs in enumerate(channels):
        linear = last_linear and index == len(channels) - 1
        norm = None if linear else norm_cfg
        act = None if linear else {"type": "ReLU"}
        layers.append(ConvModule(inputs, outputs, 3, padding=1, norm_cfg=norm, act_cfg=act))
        inputs = outputs
    return nn.Sequential(*layers)


@HEADS.register_module()
class ShapeHead(BaseModule):
    """Activate the saliency of a RoI's category and propagate it to a shape.

    Activate: convolutions and a 1x1 layer give a map for every category and for background, whose spatial mean is a
    class logit; the map of the RoI's category, as it is, is its saliency. Propagate: a second branch gives the weights
    of message passing, which runs on an encoding of the saliency in a few latent channels and is decoded.

    Args:
        num_classes: K; background is category K.
        in_channels: channels of the RoI feature.
        num_convs, channels: convolutions of either branch, and their width.
        latent_channels: L.
        steps: of message passing; None for the longer side of the map.
        share_weights: one set of weights for all latent channels, instead of one for each.
        share_features: the weights come from the features of the activation branch instead of a branch of their own.
        norm_cfg: normalisation of the convolutions of either branch.
        activation_weight, propagation_weight: of the losses.
        init_cfg: as `BaseModule`.
    """

    def __init__(
        self,
        num_classes,
        in_channels=256,
        num_convs=4,
        channels=256,
        latent_channels=24,
        steps=None,
        share_weights=False,
        share_features=False,
        norm_cfg=None,
        activation_weight=1.0,
        propagation_weight=1.0,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.steps = steps
        self.activation_weight, self.propagation_weight = activation_weight, propagation_weight
        width = channels if num_convs else in_channels
        branch = (in_channels, [channels] * num_convs, False, norm_cfg)
        self.activation_convs = convolutions(*branch)
        self.class_maps = nn.Conv2d(width, num_classes + 1, 1)
        self.propagation_convs = None if share_features else convolutions(*branch)
        self.weight_maps = nn.Conv2d(width, NEIGHBOURS * (1 if share_weights else latent_channels), 1)
        self.encoder = convolutions(1, [latent_channels] * 3)
        self.decoder = convolutions(latent_channels, [latent_channels, latent_channels, 1])

    def init_weights(self):
        """The 1x1 layers start Kaiming-uniform by fan-in, without a gain; the others as `convolutions` says."""
        super().init_weights()
        for layer in (self.class_maps, self.weight_maps):
            kaiming_init(layer, a=1, mode="fan_in", nonlinearity="leaky_relu", distribution="uniform")

    def activate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Give class maps [R, K + 1, H, W], not normalised, and the features [R, C, H, W] that they are made of.

        Args:
            features: RoI features [R, in_channels, H, W].
        """
        features = self.activation_convs(features)
        return self.class_maps(features), features

    @staticmethod
    def saliency(class_maps: Tensor, labels: Tensor) -> Tensor:
        """Select each RoI's map [R, 1, H, W] by its category [R] int64, K for background."""
        return class_maps[torch.arange(len(labels), device=labels.device), labels][:, None]

    def weights(self, features: Tensor, activation_features: Tensor) -> Tensor:
        """Give the weights of message passing [R, L x 9 or 9, H, W] in (0, 1), not normalised.

        Args:
            features: RoI features [R, in_channels, H, W].
            activation_features: what `activate` returned beside the maps; used if the branches share theirs.
        """
        own = activation_features if self.propagation_convs is None else self.propagation_convs(features)
        return self.weight_maps(own).sigmoid()

    def shapes(self, saliency: Tensor, weights: Tensor) -> Tensor:
        """Propagate a saliency [R, 1, H, W] to shape activations [R, 1, H, W], logits.

        Args:
            saliency: of `saliency`.
            weights: of `weights`.
        """
        steps = max(saliency.shape[-2:]) if self.steps is None else self.steps
        return self.decoder(propagate(self.encoder(saliency), weights, steps))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Give the shape activations [R, 1, H, W] of RoIs of given categories [R] int64."""
        class_maps, activation_features = self.activate(features)
        return self.shapes(self.saliency(class_maps, labels), self.weights(features, activation_features))

    def activation_loss(self, class_maps: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the maps' means with the categories, background among them, averaged over all RoIs.

        Args:
            class_maps: [R, K + 1, H, W]; without a RoI the loss is 0 and keeps its graph.
            labels: [R] int64.
        """
        logits = class_maps.float().mean((-2, -1))
        loss = F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
        return self.activation_weight * loss

    def propagation_loss(self, shapes: Tensor, targets: Tensor, in_loss: Tensor) -> Tensor:
        """Binary cross-entropy with the masks, averaged over the cells of the RoIs in the loss.

        Args:
            shapes: [R, 1, H, W] logits.
            targets: [R, H, W] 0/1.
            in_loss: [R] bool; without any True the loss is 0 and keeps its graph.
        """
        shapes = shapes[:, 0].float()
        cells = F.binary_cross_entropy_with_logits(shapes, targets.to(shapes.dtype), reduction="none")
        rois = cells.mean((-2, -1)) * in_loss
        return self.propagation_weight * rois.sum() / in_loss.sum().clamp(min=1)
