"""Steps from an annotation record to a network input, as MMDetection pipeline configs.

Two custom steps of `partial` appear here: `LoadWholeImage`, which refuses a broken image, and the pair
`LoadPartialAnnotations`, `FormatPartialBundle`, which carry `gt_is_novel` beside `gt_labels`.
"""

IMAGE_NORM = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}


def steps(images):
    """{"train": steps, "test": steps} for the image sizes of a profile, its section `images`."""
    divisor = images["size_divisor"]
    return {
        "train": train_pipeline(images["train_scales"], size_divisor=divisor),
        "test": test_pipeline(images["test_scale"], size_divisor=divisor),
    }


def train_pipeline(scales=None, flip_ratio=0.5, size_divisor=1, poly2mask=True):
    """Training steps; samples hold `img, gt_bboxes, gt_labels, gt_masks, gt_is_novel` and `img_metas`.

    Args:
        scales: `None` to keep the size of the images, or two `(long, short)` pairs in pixels: the aspect
            ratio is kept, the short side is drawn uniformly between the two, the long side is capped.
        flip_ratio: probability of a horizontal flip.
        size_divisor: width and height are padded to a multiple of it.
        poly2mask: rasterise masks on loading (`True`, the 1x schedule) or keep polygons until they are
            cropped to RoIs.
    """
    resize = {"type": "Resize", "img_scale": _pairs(scales), "multiscale_mode": "range", "keep_ratio": True}
    return [
        {"type": "LoadWholeImage"},
        {"type": "LoadPartialAnnotations", "with_bbox": True, "with_mask": True, "poly2mask": poly2mask},
        *([resize] if scales else []),
        {"type": "RandomFlip", "flip_ratio": flip_ratio},
        {"type": "Normalize", **IMAGE_NORM},
        {"type": "Pad", "size_divisor": size_divisor},
        {"type": "FormatPartialBundle"},
        {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels", "gt_masks", "gt_is_novel"]},
    ]


def test_pipeline(scale=None, size_divisor=1):
    """Inference steps: one scale, no flip.

    Args:
        scale: `None` to keep the size of the images, or one `(long, short)` pair in pixels.
        size_divisor: as in `train_pipeline`.
    """
    size = {"img_scale": _pairs([scale])[0]} if scale else {"scale_factor": 1.0}
    steps = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        {"type": "Normalize", **IMAGE_NORM},
        {"type": "Pad", "size_divisor": size_divisor},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    return [
        {"type": "LoadWholeImage"},
        {"type": "MultiScaleFlipAug", **size, "flip": False, "transforms": steps},
    ]


def _pairs(scales):
    """MMDetection insists on a list of tuples; YAML has lists only."""
    return [tuple(pair) for pair in scales or []]
