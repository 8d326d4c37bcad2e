"""MaskFormer's head with the losses of weak-shot segmentation.

Legend: L decoder layers, B images, Q queries, K classes, C channels of the pixel embedding, h and w cells of it.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

from typing import NamedTuple

import torch
from mmcv.cnn import caffe2_xavier_init
from mmdet.core import reduce_mean
from mmdet.models.builder import HEADS
from mmdet.models.dense_heads import MaskFormerHead
from torch import Tensor, nn

from pipeline.methods.simformer.losses import class_loss, complementary_loss, mask_losses, upsampled
from pipeline.methods.simformer.matching import match
from pipeline.methods.simformer.pixel_pairs import PixelPairs
from pipeline.methods.simformer.targets import Targets


class Predictions(NamedTuple):
    """What the head says of a batch.

    Attributes:
        logits: [L, B, Q, K + 1], the last column "no object".
        masks: [L, B, Q, h, w] logits.
        embedding: [B, C, h, w] of the pixels.
    """

    logits: Tensor
    masks: Tensor
    embedding: Tensor


@HEADS.register_module()
class SimFormerHead(MaskFormerHead):
    """Part images into masks of one class each, where only base classes have masks to learn from.

    Args:
        weights: {cls, focal, dice, no_object, complementary: weight of a loss}.
        complementary_logit: floor of the complementary loss.
        pixel_pairs: arguments of `PixelPairs`, None without pairs.
        train_cfg, test_cfg: not read.
        kwargs: as MMDetection's `MaskFormerHead`.
    """

    def __init__(self, weights, complementary_logit, pixel_pairs=None, train_cfg=None, test_cfg=None, **kwargs):
        super().__init__(**kwargs)
        self.weights = dict(weights)
        empty_weight = torch.ones(self.num_classes + 1)
        empty_weight[-1] = self.weights["no_object"]
        self.register_buffer("empty_weight", empty_weight)
        self.register_buffer("complementary_floor", torch.tensor(float(complementary_logit)))
        self.pixel_pairs = PixelPairs(**pixel_pairs) if pixel_pairs else None

    def init_weights(self):
        """Initialise as the released code does, where MMDetection differs.

        That leaves out a level of the pixel decoder, and its last convolution; and the released decoder layers are
        copies of one, so that the biases of their feed-forward nets are equal.
        """
        super().init_weights()
        decoder = self.pixel_decoder
        for conv in (*decoder.lateral_convs, *decoder.output_convs, decoder.last_feat_conv):
            caffe2_xavier_init(conv.conv, bias=0)
        first, *others = [layer.ffns for layer in self.transformer_decoder.layers]
        for ffns in others:
            for (name, ours), theirs in zip(ffns.named_parameters(), first.parameters(), strict=True):
                if name.endswith("bias"):
                    nn.init.zeros_(ours).data.add_(theirs.data)

    def forward(self, feats, last=False) -> Predictions:
        """Predict; padded pixels are pixels like any other, as in the released code.

        Args:
            feats: feature maps of the backbone, from the finest.
            last: of the last decoder layer alone.
        """
        embedding, memory = self.pixel_decoder(feats, None)
        memory = self.decoder_input_proj(memory)
        batch, _, *size = memory.shape
        position = self.decoder_pe(torch.zeros(1, *size, dtype=torch.bool, device=memory.device))
        queries = self.query_embed.weight[:, None].expand(-1, batch, -1)
        memory = memory.flatten(2).permute(2, 0, 1)
        decoded = self.transformer_decoder(
            query=torch.zeros_like(queries),
            key=memory,
            value=memory,
            key_pos=position.flatten(2).permute(2, 0, 1).expand_as(memory),
            query_pos=queries,
        ).transpose(1, 2)
        decoded = decoded[-1:] if last else decoded
        masks = torch.einsum("lbqc,bchw->lbqhw", self.mask_embed(decoded), embedding)
        return Predictions(self.cls_embed(decoded), masks, embedding)

    def loss(self, predictions: Predictions, targets: Targets, inside: Tensor, novel=()) -> dict:
        """All losses, weighted.

        Args:
            predictions: of the images.
            targets: of them.
            inside: [B, H, W] bool, False in the padding.
            novel: the classes that have no masks in the training, whichever the images show; needed for pairs.
        """
        weights = self.weights
        matches = match(predictions.logits, predictions.masks, targets, weights["focal"], weights["dice"])
        normaliser = self.normaliser(predictions, targets)
        losses, last, seen = {}, len(matches) - 1, inside.flatten(1).any(1)
        for layer, (logits, masks, matched) in enumerate(
            zip(predictions.logits, predictions.masks, matches, strict=True)
        ):
            focal, dice = mask_losses(masks, matched, targets, normaliser)
            found = {
                "loss_cls": weights["cls"] * class_loss(logits, matched, targets, self.empty_weight, seen),
                "loss_mask": weights["focal"] * focal,
                "loss_dice": weights["dice"] * dice,
            }
            if weights["complementary"]:
                complementary = complementary_loss(
                    masks, matched, targets, inside, self.complementary_floor, weights["focal"], weights["dice"]
                )
                found["loss_complementary"] = weights["complementary"] * complementary
            losses |= {(name if layer == last else f"d{layer}.{name}"): value for name, value in found.items()}
        if self.pixel_pairs is not None:
            logits, masks = predictions.logits[-1], predictions.masks[-1]
            losses |= self.pixel_pairs.loss(predictions.embedding, logits, masks, targets, inside, novel)
        return losses

    @staticmethod
    def normaliser(predictions: Predictions, targets: Targets) -> Tensor:
        """[] what mask losses are divided by: base masks of the batch, mean over processes, at least 1."""
        return reduce_mean(predictions.logits.new_tensor(float(targets.base.sum()))).clamp(min=1)

    def class_scores(self, predictions: Predictions, size) -> Tensor:
        """Scores [B, K, H, W] of every class at a size (H, W): of each proposal its class times its mask, summed."""
        classes = predictions.logits[-1].softmax(-1)[..., :-1]
        masks = upsampled(predictions.masks[-1], size).sigmoid()
        return torch.einsum("bqk,bqhw->bkhw", classes, masks)
