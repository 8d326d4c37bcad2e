"""A drawn example of a user's own label maps: photographs in sub-folders, maps as palette PNG, labels of whole images.

Of the drawn scenes' sixteen classes three are new: their pixels are without label, a CSV file says which images show
them. Every eighth image has no map.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline.artifacts import files
from pipeline.datasets.label_maps import IGNORE, drawn
from pipeline.datasets.label_maps.classes import hexadecimal
from pipeline.errors import ExperimentError

NEW = ("teal dots", "pink marble", "star")
PLACES = ("north", "south")
WITHOUT = 8  # one of so many images has no map
QUALITY = 95  # of JPEG


def draw(folder, images=240, side=96, seed=0):
    """Draw the example into a folder: `images/<place>/IMG_0001.JPG`, `maps/<place>/IMG_0001.png`, `classes.csv`,
    `labels.csv`.

    Args:
        folder: created; must be empty or new.
        images: how many.
        side: of an image, in pixels.
        seed: another one draws others.

    Returns:
        The paths of these four.

    Raises:
        ExperimentError: there is something in the folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExperimentError(f"{folder}: is not empty; name a new folder")
    spec = {"version": 1, "seed": seed, "image_size": side}
    palette = np.random.default_rng(0).integers(40, 216, (len(drawn.CLASSES), 3))
    labels = ["image,classes"]
    for index in range(images):
        image, label_map = drawn.draw(spec, 0, index)
        name = f"{PLACES[index % len(PLACES)]}/IMG_{index + 1:04d}"
        photo, target = folder / "images" / f"{name}.JPG", folder / "maps" / f"{name}.png"
        for each in (photo, target):
            each.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(photo), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        new = [name for name in NEW if (label_map == drawn.CLASSES.index(name)).any()]
        if new:
            labels.append(f"{name}.JPG,{';'.join(new)}")
        if index % WITHOUT or not new:
            label_map[np.isin(label_map, [drawn.CLASSES.index(name) for name in NEW])] = IGNORE
            stored = Image.fromarray(label_map, mode="P")
            stored.putpalette([*palette.ravel().tolist(), *[0] * (3 * IGNORE - palette.size), 255, 255, 255])
            stored.save(target)
    lines = [f"{value},{hexadecimal(palette[value])},{name}" for value, name in enumerate(drawn.CLASSES)]
    files.write_text(folder / "classes.csv", "\n".join(["index,colour,name", *lines, ""]))
    files.write_text(folder / "labels.csv", "\n".join([*labels, ""]))
    return folder / "images", folder / "maps", folder / "classes.csv", folder / "labels.csv"
