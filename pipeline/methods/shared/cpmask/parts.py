"""The MMDetection configuration of what CPMask's two methods have in common."""

from pipeline.methods.shared import one_stage, two_stage
from pipeline.methods.shared.authors import Authors

HEAD_MODULES = (
    "pipeline.methods.shared.partial_roi_head",
    "pipeline.methods.shared.cpmask.mask_head",
    "pipeline.methods.shared.cpmask.roi_head",
)
TWO_STAGE_MODULES = (*two_stage.BOX_MODULES, *HEAD_MODULES)
ONE_STAGE_MODULES = (
    *one_stage.MODULES,
    "pipeline.methods.shared.blue_first_resnet",
    "pipeline.methods.shared.roi_extractor",
    *HEAD_MODULES,
    "pipeline.methods.shared.cpmask.detector",
)
AUTOCAST = (("roi_head.mask_head", "forward"), ("roi_head.mask_head", "forward_with_boundary"))

# Of the first author's later repository; whether the published rows were trained so is not known.
SETTINGS = Authors(
    rate=0.01,
    warmup=1000,
    norm_decay=0.0,
    remains="weights of the Caffe ResNet, images of one scale (short side 600, long side at most 1000) in training and "
    "testing, 90000 iterations with drops at 60000 and 80000",
)

INSIDE_MAPS = (
    ("boundaries", "Boundary", "probability that the boundary runs through a cell"),
    ("attended", "Attention", "what the cells of the predicted mask attend to, as a share of the cell that gets most"),
    ("masks", "Mask", "predicted probability"),
)

ABOUT = (
    "CPMask: the mask head parses the boundary of an object, gates it into its features, and has a non-local block "
    "whose attention the masks supervise"
)


def mask_head(knobs, sizes, num_classes) -> dict:
    """Configuration of `CPMaskHead`.

    The boundary branch is as deep as the mask branch (`mask_convs`) and as wide as the pyramid, to whose features it is
    added; masks and boundaries have twice `mask_roi_size` cells, the affinity its square. The group norm has the
    authors' groups, and those of the profile's other branches where these are normalised (`normalise`).

    Args:
        knobs: `HeadKnobs`.
        sizes: `Sizes`.
        num_classes: number of categories.
    """
    return {
        "type": "CPMaskHead",
        "num_convs": sizes.mask_convs,
        "in_channels": sizes.neck_channels,
        "conv_out_channels": sizes.mask_channels,
        "num_classes": num_classes,
        **two_stage.within_rois(sizes, sizes.mask_channels),
        "boundary_convs": sizes.mask_convs,
        "norm_groups": one_stage.groups(sizes),
        "boundary_loss_weight": knobs.boundary_loss_weight,
        "affinity_loss_weight": knobs.affinity_loss_weight,
        "affinity_gradient": knobs.affinity_gradient,
        "affinity_norm_init": knobs.affinity_norm_init,
    }


def two_stage_model(knobs, sizes, backbone, num_classes) -> dict:
    """As `Method.model`: on the two-stage detector. `knobs` are `Knobs`."""
    roi_head = two_stage.boxes(knobs, sizes, num_classes) | two_stage.masks(knobs, sizes, num_classes)
    roi_head |= {"type": "CPMaskRoIHead", "mask_head": mask_head(knobs, sizes, num_classes)}
    return two_stage.mask_detector(sizes, backbone, roi_head)


def one_stage_model(knobs, sizes, backbone, num_classes) -> dict:
    """As `Method.model`: on FCOS, the authors' detector. `knobs` are `HeadKnobs`."""
    detector = one_stage.detector(sizes, backbone, num_classes)
    roi_head = {
        "type": "CPMaskRoIHead",
        "mask_roi_size": sizes.mask_roi_size,
        "mask_loss_rois": "base_gt",
        "mask_roi_extractor": one_stage.roi_extractor(sizes, backbone, sizes.mask_roi_size, sizes.mask_finest_scale),
        "mask_head": mask_head(knobs, sizes, num_classes),
    }
    return detector | {
        "type": "MaskFCOS",
        "roi_head": roi_head,
        "train_cfg": {"mask_size": 2 * sizes.mask_roi_size},
        "test_cfg": detector["test_cfg"] | {"mask_thr_binary": sizes.mask_threshold},
    }
