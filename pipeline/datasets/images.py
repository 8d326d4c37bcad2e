"""Image files on disk: which file a listed name means, whether it is whole, and what brings it back if not."""

import io
import os
import struct
import unicodedata
import zlib
from pathlib import Path

import cv2
from PIL import Image

from pipeline.datasets.contents import managed
from pipeline.errors import ExperimentError

# How a whole file begins and ends. Some writers append a few bytes, hence TAIL.
WHOLE = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"))  # JPEG, PNG
TAIL = 64
BROKEN = (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)  # Pillow's
# Of what OpenCV reads. Other files beside the images of an archive stay packed.
SUFFIXES = (
    "jpg",
    "jpeg",
    "jpe",
    "jfif",
    "png",
    "webp",
    "bmp",
    "dib",
    "tif",
    "tiff",
    "jp2",
    "ppm",
    "pgm",
    "gif",
    "avif",
)


def is_whole(path):
    """Whether an image file has its begin and end; if one looks odd, whether strict decoders find all of the image.

    Args:
        path: a JPEG or PNG file; other types are always decoded. What is no regular file is not whole.
    """
    path = Path(path)
    if not path.is_file():  # reading a FIFO might never end
        return False
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(max(file.seek(0, io.SEEK_END) - TAIL, 0))
        tail = file.read()
    if any(head.startswith(begin) and end in tail for begin, end in WHOLE):
        return True
    try:
        with Image.open(path) as image:
            image.load()
    except BROKEN:
        return False
    return cv2.haveImageReader(str(path))


def remedy(folder):
    """What to do about an image that is missing or broken.

    Args:
        folder: of the images of a subset, such as `data/coco2017/images/train2017`.
    """
    folder = Path(folder)
    if folder.is_symlink() or not managed(folder.parent):
        return f"{folder.resolve()} is your own folder: restore the file there"
    dataset = folder.absolute().parent.parent.name
    return (
        f"run `python -m stages.download {dataset}`, which brings back what differs from its source; if it does not "
        "help, the source is like that: take the image out of the annotations"
    )


def resolve_names(names, folder):
    """Find the files that the names in an annotation file mean.

    A name is the path below `folder`. One that is not there may still be meant: with backslashes, with leading folders
    up to that of the subset (`train2017/1.jpg`), in another Unicode normal form or case.

    Args:
        names: `file_name` of images, as listed.
        folder: of the images.

    Returns:
        {name: path below `folder`, with slashes, as it is on disk}.

    Raises:
        ExperimentError: a name without a file, with several, or a file with several names; no text; no regular file.
    """
    folder = Path(folder)
    names = list(dict.fromkeys(name if isinstance(name, str) else _refuse_name(name) for name in names))
    present, others = _files(folder)
    resolved = {name: name for name in names if name in present}
    if len(resolved) == len(names):
        return resolved
    alike = {}
    for path in present:
        alike.setdefault(_loose(path), []).append(path)
    absent = []
    for name in names:
        if name in resolved:
            continue
        meant = _meant(name, folder.name, present, alike)
        if len(meant) > 1:
            raise ExperimentError(
                f"{folder}: the listed image {name!r} may be {' or '.join(map(repr, sorted(meant)[:2]))}; "
                "correct file_name in your annotations or rename the files"
            )
        if meant:
            resolved[name] = meant[0]
        else:
            absent.append(name)
    if absent:
        raise ExperimentError(_absent(folder, names, absent, others))
    owners = {}
    for name, path in resolved.items():
        if (other := owners.setdefault(path, name)) != name:
            raise ExperimentError(
                f"{folder}: the listed images {other!r} and {name!r} are both the file {path!r}; "
                "correct file_name in your annotations"
            )
    return {name: resolved[name] for name in names}


def _refuse_name(name):
    raise ExperimentError(f"file_name {name!r} is no text; correct it in your annotations")


def _loose(path):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _meant(name, subset, present, alike):
    """The files that a name without a file of its own may mean."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    starts = {0, *(at + 1 for at, part in enumerate(parts) if part == subset)}
    candidates = ["/".join(parts[start:]) for start in sorted(starts, reverse=True)]
    exact = [path for path in candidates if path in present]
    return exact[:1] or next((alike[_loose(path)] for path in candidates if _loose(path) in alike), [])


def _absent(folder, names, absent, others):
    first = absent[0]
    state = f"is {others[first]}" if first in others else "is missing"
    suffix = Path(first).suffix.lower().removeprefix(".")
    if suffix not in SUFFIXES:
        state += f" (images are read with the endings {', '.join(SUFFIXES)})"
    if folder.is_symlink() or not managed(folder.parent):
        advice = f"put the images into {folder.resolve()}, which is your own folder,"
    else:
        advice = "declare archives in pipeline/experiments/datasets.yaml that hold them"
    return (
        f"{folder}: of the {len(names)} images that its annotations list {len(absent)} cannot be used, the first "
        f"{first!r} {state}; {advice} or correct file_name in the annotations: it is the path below {folder.name}/"
    )


def files_below(folder):
    """Paths below a folder, with slashes, of all regular files in it, sorted; without hidden ones."""
    return sorted(path for path in _files(Path(folder))[0] if not f"/{path}".count("/."))


def _files(folder):
    """Paths of the regular files below a folder, and what else is there, by path.

    Links are followed, to each folder once.
    """
    present, others, seen = set(), {}, set()
    pending = [(folder, "")]
    while pending:
        where, prefix = pending.pop()
        state = os.stat(where)
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(where) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_file():
                    present.add(path)
                elif entry.is_dir():
                    others[path] = "a folder"
                    pending.append((entry.path, f"{path}/"))
                else:
                    others[path] = "no regular file" if os.path.exists(entry.path) else "a link to nowhere"
    return present, others
