"""The steps of `steps.py`: load, resize, crop, change colours, mirror, pad, format. Maps are uint8, 255 is no class.

A step takes and gives a dictionary; `rng`, a numpy Generator, is what it draws from, so that a sample depends on its
seed alone. `img` is RGB uint8 [H, W, 3] until it is formatted, `gt_semantic_seg` uint8 [H, W].
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.parallel import DataContainer
from mmdet.datasets.builder import PIPELINES
from mmdet.datasets.pipelines import Compose
from PIL import Image

from pipeline.datasets.images import is_whole, remedy
from pipeline.datasets.label_maps import IGNORE
from pipeline.errors import ExperimentError

BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 18  # SSD's; hue of OpenCV's 180


@PIPELINES.register_module()
class LoadScene:
    """Load an image and, unless `with_map` is false, its label map and `novel_labels`, the novel classes it shows.

    Raises:
        ExperimentError: an image that is missing, cut short, or not of the size that its map assumes.
    """

    def __init__(self, with_map=True):
        self.with_map = with_map

    def __call__(self, results):
        path = Path(results["folder"]) / results["file_name"]
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if path.is_file() else None
        if stored is None or not is_whole(path):
            state = "is truncated or not an image" if path.exists() else "is missing"
            raise ExperimentError(f"image {path} {state}; {remedy(results['folder'])}")
        height, width = stored.shape[:2]
        if (width, height) != (results["width"], results["height"]):
            raise ExperimentError(
                f"image {path} is stored {width}x{height} (an EXIF orientation is ignored), its label map is "
                f"{results['width']}x{results['height']}; bring image and map of the same source"
            )
        results |= {"img": np.ascontiguousarray(stored[..., ::-1]), "flip": False, "scale_factor": 1.0}
        results["ori_shape"] = (height, width, 3)
        if self.with_map:
            results["gt_semantic_seg"] = results["pack"].read(results["position"])
        return results


@PIPELINES.register_module()
class RedrawScene:
    """Repeat steps until the result shows a class: a base class in its map, or a novel one among its labels.

    Args:
        tries: at most; then the last one is taken. The released mapper reads the complete map, novel masks included,
            after 30 of them.
        steps: configurations.
    """

    def __init__(self, steps, tries):
        self.steps, self.tries = Compose(steps), tries

    def __call__(self, results):
        for _ in range(self.tries):
            drawn = self.steps(dict(results))
            if len(labels_of(drawn)) or (drawn["gt_semantic_seg"] != IGNORE).any():
                break
        return drawn


def labels_of(results):
    """Novel classes that training is told an image shows, int64 [classes].

    They are those of the image; where a step has put `novel_map` beside the map (`complete.CropLabels`), of the crop.
    """
    if "novel_map" not in results:
        return np.asarray(results["novel_labels"], np.int64)
    shown = np.unique(results["novel_map"])
    return shown[shown != IGNORE].astype(np.int64)


def maps_of(results):
    """Names of the maps that go the way of the image."""
    return [key for key in ("gt_semantic_seg", "novel_map") if key in results]


@PIPELINES.register_module()
class ResizeScene:
    """Resize to one of several `[long, short]` sides: the short one is met unless the long one then is too long.

    The image is interpolated bilinearly by Pillow, with a filter where it shrinks. Maps take a nearest pixel.

    Args:
        scales: one of them is drawn.
        map_pixel: `floor` (as torch's `nearest`, of the released code) or `centre`, half a pixel off it.
    """

    def __init__(self, scales, map_pixel="floor"):
        self.scales, self.map_pixel = scales, map_pixel

    def __call__(self, results):
        long, short = self.scales[int(results["rng"].integers(len(self.scales))) if len(self.scales) > 1 else 0]
        height, width = results["img"].shape[:2]
        factor = min(short / min(height, width), long / max(height, width))
        size = tuple(max(1, int(side * factor + 0.5)) for side in (height, width))
        image = Image.fromarray(results["img"]).resize(size[::-1], Image.BILINEAR)
        results["img"], results["scale_factor"] = np.asarray(image), factor
        for key in maps_of(results):
            results[key] = resized_map(results[key], size, self.map_pixel)
        return results


def resized_map(label_map, size, map_pixel="floor"):
    """A map [h, w] of another size (height, width), by nearest pixels; see `ResizeScene`."""
    rows, columns = (_sources(before, after, map_pixel) for before, after in zip(label_map.shape, size, strict=True))
    return label_map[rows[:, None], columns]


def _sources(before, after, map_pixel):
    shift = {"floor": 0.0, "centre": 0.5}[map_pixel]
    sources = np.floor((np.arange(after, dtype=np.float32) + np.float32(shift)) * np.float32(before / after))
    return np.minimum(sources.astype(np.int64), before - 1)


@PIPELINES.register_module()
class CropScene:
    """Cut out a place that is drawn; where the image is smaller than `size`, [height, width], all of it is taken."""

    def __init__(self, size):
        self.size = size

    def __call__(self, results):
        starts = [
            int(results["rng"].integers(max(side - wanted, 0) + 1))
            for side, wanted in zip(results["img"].shape[:2], self.size, strict=True)
        ]
        window = tuple(slice(start, start + wanted) for start, wanted in zip(starts, self.size, strict=True))
        for key in ("img", *maps_of(results)):
            results[key] = results[key][window]
        return results


@PIPELINES.register_module()
class JitterColours:
    """SSD's changes of brightness, contrast, saturation and hue, each with probability 1/2; contrast comes before or
    after the latter two. After each, values are those of bytes."""

    def __call__(self, results):
        rng, image = results["rng"], results["img"]
        image = _scaled(image, 1, rng.uniform(-BRIGHTNESS, BRIGHTNESS)) if rng.random() < 0.5 else image
        contrast_first = rng.random() < 0.5
        image = self._contrast(image, rng) if contrast_first else image
        if rng.random() < 0.5:
            image = self._in_hsv(image, 1, lambda channel: _scaled(channel, rng.uniform(*SATURATION), 0))
        if rng.random() < 0.5:
            shift = int(rng.integers(-HUE, HUE + 1))
            image = self._in_hsv(image, 0, lambda channel: ((channel.astype(np.int64) + shift) % 180).astype(np.uint8))
        results["img"] = image if contrast_first else self._contrast(image, rng)
        return results

    @staticmethod
    def _contrast(image, rng):
        return _scaled(image, rng.uniform(*CONTRAST), 0) if rng.random() < 0.5 else image

    @staticmethod
    def _in_hsv(image, channel, change):
        hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
        hsv[..., channel] = change(hsv[..., channel])
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _scaled(image, factor, shift):
    return np.clip(image.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)


@PIPELINES.register_module()
class MirrorScene:
    """Turn left and right with a probability."""

    def __init__(self, probability=0.5):
        self.probability = probability

    def __call__(self, results):
        if results["rng"].random() < self.probability:
            results["flip"] = True
            for key in ("img", *maps_of(results)):
                results[key] = results[key][:, ::-1]
        return results


@PIPELINES.register_module()
class PadScene:
    """Pad below and on the right: to `size`, or to a multiple of `divisor` without one. Maps are padded with 255.

    `img_shape` of the results is the part that is no padding.
    """

    def __init__(self, size, divisor, value):
        self.size, self.divisor, self.value = size, divisor, value

    def __call__(self, results):
        height, width = results["img"].shape[:2]
        target = self.size or [-(-side // self.divisor) * self.divisor for side in (height, width)]
        rest = ((0, target[0] - height), (0, target[1] - width))
        results["img_shape"] = (height, width, 3)
        results["img"] = np.pad(results["img"], (*rest, (0, 0)), constant_values=self.value)
        for key in maps_of(results):
            results[key] = np.pad(results[key], rest, constant_values=IGNORE)
        return results


META = ("file_name", "position", "ori_shape", "img_shape", "scale_factor", "flip", "novel_classes")


def _metas(results, padded):
    metas = {key: results[key] for key in META if key in results}
    shape = (*padded, 3)
    return metas | {"ori_filename": results["file_name"], "pad_shape": shape, "batch_input_shape": tuple(padded)}


def _normalised(image, mean, std):
    image = (image.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@PIPELINES.register_module()
class FormatScene:
    """What a batch is made of.

    `img` float32 [3, H, W], normalised; `gt_semantic_seg` int64 [H, W], position of the class where it has a mask, else
    255; `novel_labels` int64 [classes], those without masks that the image shows; `img_metas`, in which
    `novel_classes` are the classes of the direction that have no masks.
    """

    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def __call__(self, results):
        return {
            "img": DataContainer(_normalised(results["img"], self.mean, self.std), stack=True, pad_dims=None),
            "img_metas": DataContainer(_metas(results, results["img"].shape[:2]), cpu_only=True),
            "gt_semantic_seg": DataContainer(
                torch.from_numpy(results["gt_semantic_seg"].astype(np.int64)), stack=True, pad_dims=None
            ),
            "novel_labels": DataContainer(torch.from_numpy(labels_of(results))),
        }


def paired(image, reference):
    """One item of two formatted ones: `img` [2, 3, H, W], `gt_semantic_seg` [2, H, W], the others lists of two.

    Both `img_metas` have `pair`, true.
    """
    stacked = {
        key: DataContainer(torch.stack([image[key].data, reference[key].data]), stack=True, pad_dims=None)
        for key in ("img", "gt_semantic_seg")
    }
    metas = [each["img_metas"].data | {"pair": True} for each in (image, reference)]
    return stacked | {
        "img_metas": DataContainer(metas, cpu_only=True),
        "novel_labels": DataContainer([image["novel_labels"].data, reference["novel_labels"].data]),
    }


@PIPELINES.register_module()
class FormatImage:
    """An image to predict: normalised, then padded with zeros to a multiple of `divisor`; `img_metas` are plain."""

    def __init__(self, mean, std, divisor):
        self.mean, self.std, self.divisor = mean, std, divisor

    def __call__(self, results):
        height, width = results["img"].shape[:2]
        image = _normalised(results["img"], self.mean, self.std)
        below, right = (-side % self.divisor for side in (height, width))
        results["img_shape"] = (height, width, 3)
        padded = torch.nn.functional.pad(image, (0, right, 0, below))
        return {"img": padded, "img_metas": _metas(results, padded.shape[-2:])}
