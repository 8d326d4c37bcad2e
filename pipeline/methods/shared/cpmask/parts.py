"""The MMDetection configuration of what CPMask's two methods have in common."""

from pipeline.methods.shared import two_stage

GROUPS = 32  # of the group norm behind the gate, in the authors' code

MODULES = (
    "pipeline.methods.shared.roi_extractor",
    "pipeline.methods.shared.cpmask.mask_head",
    "pipeline.methods.shared.cpmask.roi_head",
)
AUTOCAST = (("roi_head.mask_head", "forward"), ("roi_head.mask_head", "forward_with_boundary"))

ABOUT = (
    "CPMask: the mask head parses the boundary of an object, gates it into its features, and has a non-local block "
    "whose attention the masks supervise"
)


def masks(knobs, sizes, num_classes) -> dict:
    """What `CPMaskRoIHead` needs for masks, its type included.

    The boundary branch is as deep as the mask branch (`mask_convs`) and as wide as the pyramid, to whose features it is
    added; masks and boundaries have twice `mask_roi_size` cells, the affinity its square. The group norm has the
    authors' groups, and those of the profile's other branches where these are normalised (`normalise`).

    Args:
        knobs: `Knobs`.
        sizes: `Sizes`.
        num_classes: number of categories.
    """
    shared = two_stage.masks(knobs, sizes, num_classes)
    return shared | {
        "type": "CPMaskRoIHead",
        "mask_head": shared["mask_head"]
        | {
            "type": "CPMaskHead",
            "boundary_convs": sizes.mask_convs,
            "norm_groups": norm_groups(sizes),
            "boundary_loss_weight": knobs.boundary_loss_weight,
            "affinity_loss_weight": knobs.affinity_loss_weight,
            "affinity_gradient": knobs.affinity_gradient,
            "affinity_norm_init": knobs.affinity_norm_init,
        },
    }


def norm_groups(sizes) -> int:
    """Groups of a normalisation within RoIs as wide as the pyramid."""
    if norm := two_stage.within_rois(sizes, sizes.neck_channels):
        return norm["norm_cfg"]["num_groups"]
    return next(groups for groups in range(GROUPS, 0, -1) if sizes.neck_channels % groups == 0)
