"""The MMDetection configuration of RETAB: a backbone of stride 8 and three heads."""

from pipeline.methods.retab.knobs import Knobs
from pipeline.methods.retab.sizes import Sizes
from pipeline.methods.shared.whole_backbone import stage_channels, whole_backbone


def model(knobs: Knobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`. The last two stages keep their resolution and look wider instead, as the released ones do."""
    dilated = {"strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4], "out_indices": [1, 2, 3]}
    backbone = whole_backbone(backbone, sizes.backbone_groups) | dilated
    squeezed = (sizes.low, sizes.middle, sizes.high)
    channels = [list(pair) for pair in zip(stage_channels(backbone), squeezed, strict=True)]
    return {
        "type": "Retab",
        "backbone": backbone,
        "channels": channels,
        "num_classes": num_classes,
        "sure": knobs.sure,
    }
