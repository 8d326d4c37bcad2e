"""RoI head of ContrastMask: the baseline with CAM, and the contrastive branch beside its mask head."""

from mmdet.models.builder import HEADS, build_head, build_roi_extractor

from pipeline.methods.contrastmask import losses
from pipeline.methods.shared.draws import step_generator
from pipeline.methods.shared.partial_roi_head import EVERY, PartialRoIHead, scalar


@HEADS.register_module()
class ContrastMaskRoIHead(PartialRoIHead):
    """Segment with the contrastive feature in the mask head's input, and train it by the contrastive loss.

    Args:
        cl_head: configuration of `ContrastiveHead`.
        cl_roi_extractor: its RoI extractor; None shares the mask head's RoI feature (D3).
        cl_roi_size: height and width of its RoI features.
        detach_cl_cam, detach_cl_features: gradient routes (D4).
        lambda_warmup, lambda_warmup_epochs, lambda_epoch_passes: warm-up of the contrastive loss; an epoch of it is
            that many passes over the training set (D9).
        kwargs: as `PartialRoIHead`.
    """

    def __init__(
        self,
        cl_head,
        cl_roi_extractor,
        cl_roi_size,
        detach_cl_cam,
        detach_cl_features,
        lambda_warmup,
        lambda_warmup_epochs,
        lambda_epoch_passes=1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.cl_roi_size = cl_roi_size
        self.detach_cl_cam = detach_cl_cam
        self.detach_cl_features = detach_cl_features
        self.lambda_warmup = lambda_warmup
        self.lambda_warmup_epochs = lambda_warmup_epochs
        self.lambda_epoch_passes = lambda_epoch_passes
        self.cl_head = build_head(cl_head)
        self.cl_roi_extractor = build_roi_extractor(cl_roi_extractor) if cl_roi_extractor else None

    def _joined(self, x, rois, features, rows):
        # The contrastive loss is of all positive RoIs, whichever get a mask; without one they need no encoding.
        encoded_rows, joined_rows = (EVERY, rows) if self.cl_head.has_loss else (rows, EVERY)
        extractor = self.cl_roi_extractor or self.mask_roi_extractor
        if self.cl_roi_extractor is not None or encoded_rows is not rows:
            features = extractor(x[: extractor.num_inputs], rois[encoded_rows])
        if self.detach_cl_features:
            features = features.detach()
        encoded, joined = self.cl_head(features, joined_rows)
        return joined, {"encoded": encoded}

    def _further_losses(self, positives, gt_prior_masks=None):
        """The contrastive loss; `gt_prior_masks` are the masks per image that oracle supervision partitions RoIs with.

        Raises ValueError if oracle supervision has none.
        """
        if self.cl_head.supervision == "oracle":
            if gt_prior_masks is None:
                raise ValueError("supervision: oracle needs gt_prior_masks from the training pipeline, which has none")
            masks = self._mask_targets(positives.sampled, gt_prior_masks, self.cl_roi_size)
        elif self.cl_roi_size == self.train_cfg.mask_size:
            masks = positives.masks
        else:
            masks = self._mask_targets(positives.sampled, positives.gt_masks, self.cl_roi_size)
            masks = masks & ~positives.is_novel[:, None, None]
        return self._contrastive_loss(positives.features["encoded"], masks, positives.cam, positives.is_novel)

    def _contrastive_loss(self, encoded, masks, cam, is_novel):
        if self._progress is None:
            raise RuntimeError(
                "set_progress was never called, which pipeline.training.progress does before every iteration"
            )
        iteration, passes, seed, rank = self._progress
        weight = losses.warmup_weight(passes / self.lambda_epoch_passes, self.lambda_warmup, self.lambda_warmup_epochs)
        generator = step_generator(seed, rank, iteration, encoded.device)
        cams, has_prior = self._prior(cam.detach() if self.detach_cl_cam else cam, self.mask_roi_size, self.cl_roi_size)
        loss, statistics = self.cl_head.loss(encoded, masks, cams[:, 0], has_prior, is_novel, weight, generator)
        self.statistics.update(statistics, cl_lambda=scalar(weight, loss))
        return {"loss_contrastive": loss}
