"""Pictures of one's own: which files are meant, how large they are, and their pixels whatever their mode.

Pixels are 8-bit BGR, as training reads them: gray becomes three equal channels, 16 bits lose the lower 8, alpha is left
out. A picture is turned upright by its EXIF orientation unless the stored pixels are asked for.
"""

import glob
import logging
import os
import shlex
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from pipeline.datasets.images import BROKEN, SUFFIXES, is_whole
from pipeline.errors import ExperimentError

logger = logging.getLogger("pipeline.inference.pictures")

STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # what `LoadWholeImage` reads
ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF
VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
NAMED = 5  # pictures that are named one by one when they are skipped


class Picture(NamedTuple):
    path: Path
    name: str  # below the folder that all pictures share, with slashes
    width: int
    height: int


def find(patterns, apart_from=None):
    """Find the image files that files, folders (with all below) and globs mean.

    Args:
        patterns: what was typed; a name that exists is no glob.
        apart_from: a folder whose files are not meant, such as that of the results.

    Returns:
        {name below the folder they share: path}, in the order of the names.

    Raises:
        ExperimentError: one of them matches nothing, a video, or a folder without an image.
    """
    found = {}
    apart = Path(os.path.abspath(apart_from)) if apart_from else None
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matched = [path] if path.exists() else [Path(match) for match in glob.glob(str(path), recursive=True)]
        meant = [
            Path(os.path.abspath(file))
            for match in matched
            for file in (_images_below(match) if match.is_dir() else [match])
        ]
        if meant and apart == Path(os.path.abspath(path)):
            raise ExperimentError(f"{pattern}: the results cannot go among the images; name another folder: --out DIR")
        meant = [file for file in meant if apart is None or not file.is_relative_to(apart)]
        if videos := [file for file in meant if file.suffix.lower() in VIDEOS]:
            frames = f"`ffmpeg -i {shlex.quote(videos[0].name)} frames/%06d.jpg`"
            raise ExperimentError(f"{videos[0]}: is a video; make pictures of it, {frames}, and name their folder")
        found.update(dict.fromkeys(meant))
        if not meant:
            raise ExperimentError(
                f"{pattern}: no image found; name a file, a folder or a glob in quotes (endings: {', '.join(SUFFIXES)})"
            )
    shared = os.path.commonpath([path.parent for path in found])
    return {path.relative_to(shared).as_posix(): path for path in sorted(found)}


def _images_below(folder):
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.rpartition(".")[2].lower() in SUFFIXES and not name.startswith("."):
                yield os.path.join(where, name)


def measured(files):
    """Measure pictures, and set aside those that cannot be read.

    Args:
        files: {name: path}.

    Returns:
        List of `Picture` in the order of `files`, and list of (name, reason) of what is skipped.

    Raises:
        ExperimentError: none of them can be read.
    """
    pictures, skipped = [], []
    for name, path in tqdm(files.items(), desc="look at the images", unit="image", mininterval=5, disable=None):
        try:
            pictures.append(Picture(path, name, *size(path)))
        except ExperimentError as error:
            skipped.append((name, str(error)))
    if skipped and not pictures:
        more = f", and so are {len(skipped) - 1} more" if len(skipped) > 1 else ""
        raise ExperimentError(f"{skipped[0][1]}{more}: no image is left; name others")
    return pictures, skipped


def warn_of(skipped):
    """Name pictures that are skipped: the first few with the reason, and how many more."""
    for _, reason in skipped[:NAMED]:
        logger.warning("skipped: %s", reason)
    if len(skipped) > NAMED:
        logger.warning("skipped: %d more", len(skipped) - NAMED)


def size(path):
    """Width and height of a picture, upright, in pixels; decodes it only if there is a doubt.

    Raises ExperimentError if it cannot be read.
    """
    try:
        with Image.open(path) as image:
            if image.format in ("JPEG", "PNG") and image.getexif().get(ORIENTATION, UPRIGHT) == UPRIGHT:
                if is_whole(path):
                    return image.size
    except BROKEN:
        pass  # `read` says what is wrong, or OpenCV reads what Pillow does not
    height, width = read(path).shape[:2]
    return width, height


def read(path, stored=False):
    """Read a picture.

    Args:
        path: image file.
        stored: leave the pixels as they are stored, as training does.

    Returns:
        [H, W, 3] uint8, BGR.

    Raises:
        ExperimentError: it is missing, cut short or no image.
    """
    path = Path(path)
    try:
        if is_whole(path):
            content = np.fromfile(path, dtype=np.uint8)
            image = cv2.imdecode(content, STORED if stored else cv2.IMREAD_COLOR)
            if image is not None:
                return image
        if path.is_file():  # a FIFO might never end
            with Image.open(path) as image:  # of modes and formats that OpenCV does not have
                upright = image if stored else ImageOps.exif_transpose(image)
                return np.ascontiguousarray(np.asarray(upright.convert("RGB"))[..., ::-1])
    except (*BROKEN, cv2.error):
        pass
    state = "is truncated or not an image" if path.is_file() else "is missing"
    raise ExperimentError(f"image {path} {state}")
