"""RoI head of Mask^X R-CNN: the baseline, whose mask head knows the class of a RoI and what describes it."""

from mmdet.models.builder import HEADS

from pipeline.methods.shared.partial_roi_head import EVERY, PartialRoIHead


@HEADS.register_module()
class MaskXRoIHead(PartialRoIHead):
    """`PartialRoIHead` with a `Describing` box head and a `TransferMaskHead`.

    What that calls the CAM of a RoI is its class here: the object's in training, the predicted one in testing.

    Args:
        transfer_from, detach_weights: what the box head tells of a class, see `Describing.class_vectors`.
        kwargs: as `PartialRoIHead`.
    """

    def __init__(self, transfer_from="both", detach_weights=True, **kwargs):
        super().__init__(**kwargs)
        self.transfer_from = transfer_from
        self.detach_weights = detach_weights

    def _mask_features(self, x, rois, cam, rows=EVERY):
        features = self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois[rows])
        vectors = self.bbox_head.class_vectors(self.transfer_from, self.detach_weights)
        return {"mask_pred": self.mask_head(features, cam[rows], vectors)}
