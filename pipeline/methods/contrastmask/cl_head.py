"""Contrastive learning (CL) head: encoder, projector, what joins the mask head, and the contrastive loss.

Legend: R positive RoIs, C channels, H and W cells of the contrastive RoI feature, P = H * W.
"""

import torch
from mmcv.cnn import ConvModule, kaiming_init
from mmcv.runner import BaseModule
from mmdet.models.builder import HEADS
from torch import Tensor, nn

from pipeline.methods.contrastmask import losses, partition, sampling
from pipeline.methods.contrastmask.attention import enhance
from pipeline.methods.shared.cam import resize_map


@HEADS.register_module()
class ContrastiveHead(BaseModule):
    """Encode RoI features, hand them to the mask head, and pull foreground and background apart in the projected space.

    Args:
        in_channels: channels of the RoI feature.
        channels: channels of encoder and projector.
        encoder_convs: number of 3x3 convolutions (paper: 8).
        projector_layers: depth of the projector, the last layer being linear (paper: 3).
        encoder_norm: MMDetection configuration of a normalisation of the encoder's convolutions, None without.
        projector_norm: 'batch', 'sync' (over all GPUs) or 'none', on the projector's hidden layers (D19).
        features: what joins the mask head: 'enhanced' by self-attention, or 'direct' (D2).
        fusion: 'conv' puts a 1x1 convolution before the join, 'none' does not (D2).
        join_channels: channels the mask head expects from the join.
        join_size: height and width the mask head expects.
        supervision: RoIs whose keys and queries enter the loss: 'base', 'novel', 'all' or 'oracle' (all, with the
            partition of novel RoIs taken from masks that only the oracle experiment has).
        query_sharing: one query pair for all RoIs (paper), or one pair per RoI.
        query_rois: shared queries average over 'all' RoIs with a partition, or the RoIs 'kept' by the key rule (D11).
        exchange_queries: average shared queries, and RoIs, over all processes of the training (D12).
        detach_queries: whether the loss reaches the embeddings through the queries (D4: it does).
        loss_scale, loss_weight: factors on the sum of the four terms beside the warm-up weight (D8).
        rule: arguments of `partition.PartitionRule`.
        sampling_rule: arguments of `sampling.SamplingRule`.
        form: arguments of `losses.LossForm`.
    """

    def __init__(
        self,
        in_channels,
        channels,
        encoder_convs,
        projector_layers,
        projector_norm,
        features,
        fusion,
        join_channels,
        join_size,
        supervision,
        query_sharing,
        query_rois,
        exchange_queries,
        detach_queries,
        loss_scale,
        loss_weight,
        rule,
        sampling_rule,
        form,
        encoder_norm=None,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.features = features
        self.join_size = join_size
        self.supervision = supervision
        self.query_sharing = query_sharing
        self.query_rois = query_rois
        self.exchange_queries = exchange_queries
        self.synced = projector_norm == "sync" and projector_layers > 1
        self.detach_queries = detach_queries
        self.loss_factor = loss_scale * loss_weight
        self.rule = partition.PartitionRule(**rule)
        self.sampling_rule = sampling.SamplingRule(**sampling_rule)
        self.form = losses.LossForm(**form)
        widths = [in_channels] + [channels] * encoder_convs
        self.encoder = nn.Sequential(
            *[
                ConvModule(wide_in, wide_out, 3, padding=1, norm_cfg=encoder_norm)
                for wide_in, wide_out in zip(widths, widths[1:], strict=False)
            ]
        )
        norm_cfg = {"batch": {"type": "BN"}, "sync": {"type": "SyncBN"}, "none": None}[projector_norm]
        hidden = [ConvModule(channels, channels, 1, norm_cfg=norm_cfg) for _ in range(projector_layers - 1)]
        self.projector = nn.Sequential(*hidden, nn.Conv2d(channels, channels, 1))
        self.fusion = nn.Conv2d(channels, join_channels, 1) if fusion == "conv" else nn.Identity()

    def init_weights(self):
        """Initialise the fusion convolution as the mask head's own layers (Kaiming, fan out, no bias)."""
        super().init_weights()
        if isinstance(self.fusion, nn.Conv2d):
            kaiming_init(self.fusion)

    @property
    def has_loss(self) -> bool:
        """Whether the contrastive loss is on: without it `loss` reads no RoI."""
        return self.loss_factor != 0

    def forward(self, roi_features: Tensor, rows=slice(None)) -> tuple[Tensor, Tensor]:
        """Encode RoI features.

        Args:
            roi_features: [R, C, H, W].
            rows: the M of the RoIs that the mask head is to get, an index or a slice.

        Returns:
            The encoding [R, channels, H, W] and what joins the mask head [M, join_channels, join_size, join_size].
        """
        # Attention, projector and loss all work on rows of channels: one copy here saves theirs.
        encoded = self.encoder(roi_features).contiguous(memory_format=torch.channels_last)
        joined = encoded[rows]
        if self.features == "enhanced":
            joined = enhance(joined)
        return encoded, self.fusion(resize_map(joined, self.join_size))

    def participants(self, is_novel: Tensor) -> Tensor:
        """Return which RoIs ([R] bool) the supervision mode lets into the contrastive loss."""
        if self.supervision == "base":
            return ~is_novel
        if self.supervision == "novel":
            return is_novel
        return torch.ones_like(is_novel)

    def loss(
        self,
        encoded: Tensor,
        masks: Tensor,
        cams: Tensor,
        has_prior: Tensor,
        is_novel: Tensor,
        warmup_weight: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the contrastive loss of a batch of positive RoIs.

        Nothing here looks at a value on the host: sets are masks, absent RoIs are zeros.

        Args:
            encoded: [R, C, H, W] from `forward`.
            masks: [R, H, W] bool, ground-truth masks cropped to the RoIs; those of novel RoIs are looked at in
                oracle mode only.
            cams: [R, H, W] in [0, 1], each RoI's CAM of its ground-truth category.
            has_prior: [R] bool, False where the CAM is constant.
            is_novel: [R] bool.
            warmup_weight: lambda.
            generator: source of the key draw, on the device of `encoded`.

        Returns:
            The weighted loss (a scalar, 0 with a graph to the projector if no RoI takes part) and statistics by name.
        """
        empty = encoded.shape[0] == 0
        if not self.has_loss or (empty and not self.exchange_queries and not self.synced):
            zero = self._zero(encoded)
            no_rois = zero.detach()
            return zero, {
                name: no_rois
                for name in ("kept_base_rois", "dropped_base_rois", "kept_novel_rois", "dropped_novel_rois")
            }
        # No RoIs, but the other processes of the training wait for this one's share; BN of nothing would be undefined.
        cells = rows_of_cells(encoded if empty and not self.synced else self.projector(encoded))
        masked = torch.ones_like(is_novel) if self.supervision == "oracle" else ~is_novel
        sets = partition.partition(masks, cams, masked, has_prior, self.rule)
        takes_part = self.participants(is_novel)
        kept = sets.keeps(self.rule.min_keys) & takes_part
        keys = sampling.sample_keys(sets, kept, self.sampling_rule, generator)
        contributes = kept if self.query_rois == "kept" else takes_part
        terms = self.terms(cells, sets.sides, keys, contributes)
        statistics = {
            "kept_base_rois": (kept & ~is_novel).sum(),
            "dropped_base_rois": (takes_part & ~kept & ~is_novel).sum(),
            "kept_novel_rois": (kept & is_novel).sum(),
            "dropped_novel_rois": (takes_part & ~kept & is_novel).sum(),
        }
        loss = self.loss_factor * warmup_weight * terms.sum()
        return loss + self._zero(encoded) if empty else loss, statistics

    def _zero(self, encoded):
        """A zero with a graph to every parameter, so that each has a gradient."""
        return sum(parameter.sum() for parameter in self.parameters()) * 0.0 + encoded.sum() * 0.0

    def terms(self, cells: Tensor, sides: Tensor, keys: Tensor, contributes: Tensor) -> Tensor:
        """Evaluate the four loss terms in float32, whatever precision the embeddings come in.

        Args:
            cells: [R, P, C] projected features.
            sides: [2, R, P] bool, foreground and background.
            keys: [4, R, P] bool, sampled keys.
            contributes: [R] bool, RoIs in the shared queries.

        Returns:
            [4], not weighted.
        """
        with torch.autocast(cells.device.type, enabled=False):
            shared = contributes[:, None] & sides.any(-1).t() if self.query_sharing else None
            products = losses.compare_with_queries(
                cells.float(), losses.query_weights(sides), shared, self.detach_queries, self.exchange_queries
            )
            cosines = losses.similarities(*products, self.form.similarity)
            return losses.contrastive_terms(cosines, keys, self.form, self.exchange_queries)


def rows_of_cells(features: Tensor) -> Tensor:
    """Lay features [R, C, H, W] out as [R, H * W, C]; a view if they are channels-last."""
    return features.flatten(2).transpose(1, 2)
