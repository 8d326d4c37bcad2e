"""Knobs that several methods share; differences between text and code are numbered as in `recipes.yaml`."""

from typing import Literal

from pipeline.declaration.knobs import KnobSet


class BoxKnobs(KnobSet):
    """Of a two-stage detector.

    Attributes:
        recipe: preset that the value `recipe` refers to.
        box_init: initial weights of box classifier and regressor, xavier or normal (D23b).
        mask_format: masks as bitmaps of the image, or as polygons until they are cropped to RoIs (D28b).
    """

    recipe: Literal["paper", "released"]
    box_init: Literal["xavier", "normal"]
    mask_format: Literal["bitmap", "polygon"]


class MaskKnobs(BoxKnobs):
    """Of a two-stage detector that learns masks from base categories.

    Attributes:
        mask_loss_rois: base_positives or base_gt (D22).
    """

    mask_loss_rois: Literal["base_positives", "base_gt"]


class CAMKnobs(MaskKnobs):
    """Of one whose mask head sees the class activation map.

    Attributes:
        detach_mask_cam: stop the mask loss at the CAM (D4c).
        detach_classifier: stop the CAM's gradient at the classifier's weight (D4d).
        cam_normalise: after_upsample or before_upsample (D24).
        cam_frame: CAM of a detection's proposal, or of its refined box (D25).
    """

    detach_mask_cam: bool
    detach_classifier: bool
    cam_normalise: Literal["after_upsample", "before_upsample"]
    cam_frame: Literal["proposal", "refined"]
