"""The data step that loads a picture of one's own, in place of the one that insists on an annotated size."""

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
            try:
                image = pictures.read(info["path"])
            except ExperimentError:
                image = np.zeros((info["height"], info["width"], 3), np.uint8)
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


def steps(test):
    """The steps of a detector at test time, behind `LoadPicture`; call them with {"img_info": {path, width, height}}.

    Args:
        test: MMDetection pipeline; its first step loads the image.
    """
    return Compose([{"type": "LoadPicture"}, *test[1:]])
