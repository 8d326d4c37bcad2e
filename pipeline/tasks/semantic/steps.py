"""Steps from an image to a network input, as configurations of what `augmentation` registers.

The order is that of the released mapper: resize, crop, change colours, mirror, pad. A method changes a step by its type
with `changed`, or puts one behind the loading with `after_loading`.
"""

from pipeline.errors import ExperimentError

IMAGE_NORM = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}  # of RGB
PAD_VALUE = 128  # of images, before they are normalised
REDRAWN = 50  # tries to cut out what shows a class


def steps(images):
    """{"train": steps, "test": steps} for the image sizes of a profile, its section `images`; and, where it has
    `label_scales`, {"label": steps of each view} by which training images are labelled, each scale also mirrored.

    Of `train_scales`, `[long, short]` twice, one of `scale_steps` short sides is drawn, which are evenly spaced and cut
    to whole pixels; without `crop_size` images keep theirs, and all of a data set have to be of one size.
    """
    divisor = images["size_divisor"]
    return {
        "train": [
            {"type": "LoadScene"},
            {
                "type": "RedrawScene",
                "tries": REDRAWN,
                "steps": [
                    *([_resize(images)] if images["train_scales"] else []),
                    *([{"type": "CropScene", "size": list(images["crop_size"])}] if images.get("crop_size") else []),
                    *([{"type": "JitterColours"}] if images.get("colour_jitter") else []),
                    {"type": "MirrorScene"},
                    {
                        "type": "PadScene",
                        "size": _list(images.get("crop_size")),
                        "divisor": divisor,
                        "value": PAD_VALUE,
                    },
                ],
            },
            {"type": "FormatScene", **IMAGE_NORM},
        ],
        "test": _seen(images["test_scale"], divisor),
        **({"label": _views(images["label_scales"], divisor)} if images.get("label_scales") else {}),
    }


def _seen(scale, divisor, mirrored=False):
    """Steps of a prediction, at a scale or the size of the image."""
    return [
        {"type": "LoadScene", "with_map": False},
        *([{"type": "ResizeScene", "scales": [list(scale)]}] if scale else []),
        *([{"type": "MirrorScene", "probability": 1.0}] if mirrored else []),
        {"type": "FormatImage", "divisor": divisor, **IMAGE_NORM},
    ]


def _views(scales, divisor):
    return [_seen(scale, divisor, mirrored) for scale in scales for mirrored in (False, True)]


def _list(pair):
    return list(pair) if pair else None


def _resize(images):
    (long, lowest), (_, highest) = images["train_scales"]
    count = images.get("scale_steps") or highest - lowest + 1
    spacing = (highest - lowest) / max(count - 1, 1)
    return {"type": "ResizeScene", "scales": [[long, int(lowest + k * spacing)] for k in range(count)]}


def changed(given, kind, **options):
    """Steps with other options of the one of a type, also where it is a step of another one.

    Raises ExperimentError if there is none.
    """
    found = [False]

    def visit(listed):
        for step in listed:
            here = step["type"] == kind
            found[0] |= here
            inner = {"steps": list(visit(step["steps"]))} if "steps" in step else {}
            yield step | inner | (options if here else {})

    new = list(visit(given))
    if not found[0]:
        raise ExperimentError(f"the training steps have no {kind} (profile section `images`)")
    return new


def after_loading(given, step):
    """Steps with another one behind the loading of an image and its map."""
    at = next(k for k, each in enumerate(given) if each["type"] == "LoadScene")
    return [*given[: at + 1], step, *given[at + 1 :]]


# The types of these are registered by `complete`.


def with_crop_labels(given, dataset):
    """Steps in which novel labels are those of the augmented crop, as the released code has them."""
    return after_loading(given, {"type": "CropLabels", "dataset": dataset})


def with_all_masks(given, dataset):
    """Steps in which all classes have masks: FullyOracle."""
    return after_loading(given, {"type": "AllMasks", "dataset": dataset})


def with_pseudo_maps(given):
    """Steps in which maps are pseudo label maps: re-training. Which ones, `pseudo.training_set` says."""
    return after_loading(given, {"type": "PseudoMaps"})
