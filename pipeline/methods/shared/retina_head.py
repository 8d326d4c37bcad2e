"""RetinaNet's head with batch norm for each level, whose losses are divided by one more than the positive anchors."""

from mmdet.models.builder import HEADS
from mmdet.models.dense_heads import RetinaSepBNHead


@HEADS.register_module()
class CountedRetinaHead(RetinaSepBNHead):
    """`RetinaSepBNHead` with the normaliser of ShapeMask's code: the positive anchors of all images, and one."""

    def get_targets(self, *args, **kwargs):
        """As `AnchorHead.get_targets`, which counts an image without a positive anchor as one."""
        found = super().get_targets(*args, **kwargs)
        if found is None:
            return None
        labels, label_weights, targets, target_weights, _, negatives, *rest = found
        positives = sum((level < self.num_classes).sum() for level in labels) + 1
        return (labels, label_weights, targets, target_weights, positives, negatives, *rest)
