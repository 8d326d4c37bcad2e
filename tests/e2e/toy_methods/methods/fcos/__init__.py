"""A toy one-stage method: FCOS, the mask of an object being its whole box."""

from pipeline.declaration.knobs import KnobSet
from pipeline.declaration.strict import Strict
from pipeline.methods import Method


class Sizes(Strict):
    """What a profile may set of it."""

    channels: int = 32


def model(knobs, sizes, backbone, num_classes):
    """FCOS on the three stages of the profile's small backbones."""
    widths = [backbone["base_channels"] * 2**stage for stage in backbone["out_indices"]]
    head = {"type": "FCOSHead", "num_classes": num_classes, "in_channels": sizes.channels, "stacked_convs": 1}
    ranges = ((-1, 32), (32, 64), (64, 1e8))
    return {
        "type": "BoxedFCOS",
        "backbone": dict(backbone),
        "neck": {"type": "FPN", "in_channels": widths, "out_channels": sizes.channels, "num_outs": 3},
        "bbox_head": head | {"feat_channels": sizes.channels, "strides": (4, 8, 16), "regress_ranges": ranges},
        "test_cfg": {"nms_pre": 100, "score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 10},
    }


def boxes_alone(steps, knobs, dataset):
    """The detector takes neither masks nor the flags of novel objects."""
    return [s | {"keys": ["img", "gt_bboxes", "gt_labels"]} if s["type"] == "Collect" else s for s in steps]


METHOD = Method(
    task="instances",
    label="FCOS, boxes",
    colour="#654321",
    about="another toy",
    knobs=KnobSet,
    sizes=Sizes,
    detector="fcos",
    model=model,
    modules=(f"{__name__}.detector",),
    steps=boxes_alone,
)
