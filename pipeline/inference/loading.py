"""The data steps that load a picture of one's own, in place of those that insist on an annotated size."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import numpy as np
from mmdet.datasets.builder import PIPELINES
from mmdet.datasets.pipelines import Compose

from pipeline.errors import ExperimentError
from pipeline.inference import pictures


@PIPELINES.register_module()
class LoadPicture:
    """Load `img_info["path"]` upright, or take `img_info["image"]`, [H, W, 3] uint8 BGR, where there is one.

    A file that cannot be read any more is black: whoever reads it again for the results says so and leaves it out.
    """

    def __call__(self, results):
        info = results["img_info"]
        image = info.get("image")
        if image is None:
            image = _read(info)
        name = str(info["path"])
        shape = image.shape
        return results | {
            "filename": name,
            "ori_filename": name,
            "img": image,
            "img_shape": shape,
            "ori_shape": shape,
            "img_fields": ["img"],
        }


@PIPELINES.register_module()
class LoadPictureScene:
    """The same for models of label maps, which take RGB and no `img_info`."""

    def __call__(self, results):
        image = _read(results)
        results |= {"img": np.ascontiguousarray(image[..., ::-1]), "flip": False, "scale_factor": 1.0}
        return results | {"ori_shape": image.shape}


def _read(info):
    try:
        return pictures.read(info["path"])
    except ExperimentError:
        return np.zeros((info["height"], info["width"], 3), np.uint8)


def steps(test):
    """The steps of a model at test time, behind a step that loads any picture.

    Args:
        test: MMDetection pipeline; its first step loads the image.

    Returns:
        What is called with {"img_info": {path, width, height}}; for label maps with {path, width, height, file_name,
        position}.
    """
    first = "LoadPictureScene" if test[0]["type"] == "LoadScene" else "LoadPicture"
    return Compose([{"type": first}, *test[1:]])
