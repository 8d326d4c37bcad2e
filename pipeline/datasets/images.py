"""A cheap test whether an image file was cut short."""

import io
from pathlib import Path

from PIL import Image

# What ends a whole file. Some writers append a few bytes, hence TAIL.
IMAGE_ENDS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}
TAIL = 64


def is_whole(path):
    """Whether an image file has its end; if that looks odd, whether a strict decoder finds all of the image.

    Args:
        path: a JPEG or PNG file; other types are always decoded.
    """
    path = Path(path)
    end = IMAGE_ENDS.get(path.suffix.lower())
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - TAIL, 0))
        if end and end in file.read():
            return True
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):  # Pillow reports a broken PNG chunk as SyntaxError
        return False
    return True
