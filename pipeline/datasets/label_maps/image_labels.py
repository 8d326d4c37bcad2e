"""A user's image-level labels: which of the new classes a whole image shows, from CSV or JSON."""

import json
import re
from pathlib import Path, PurePosixPath

from pipeline.datasets.label_maps.classes import cells
from pipeline.declaration import strict
from pipeline.errors import ExperimentError

EXAMPLE = "a line for each image: image,class;class, such as street/a.jpg,tram;bus, or JSON {image: [classes]}"
PHOTO = "_leftImg8bit"  # what Cityscapes puts behind the name of an image
HEADS = ("image", "images", "file", "filename", "file_name", "image_name", "path")


def read(path, images, names):
    """The classes that images are said to show.

    Args:
        path: of the file.
        images: paths below the folder of images, with slashes; a file name, with or without ending, is enough where it
            is that of one image.
        names: of all classes.

    Returns:
        {image, one of `images`: class names}; of an image that stands there twice, those of both lines.

    Raises:
        ExperimentError: no such file or another format, an unknown image or class.
    """
    path, called, found = Path(path), _names_of(images), {}
    for where, image, classes in _rows(path):
        meant = called.get(image.replace("\\", "/").removeprefix("./"), ())
        if len(meant) != 1:
            state = f"may be {meant[0]} or {meant[1]}" if meant else "is none of the images"
            raise ExperimentError(
                f"{where}: {image!r} {state}{'' if meant else strict.options(image, images)}; write its path below "
                "--images"
            )
        for name in classes:
            if name not in names:
                raise ExperimentError(
                    f"{where}: unknown class {name!r}{strict.options(name, names)}; correct it, or add a new class to "
                    "the list of --classes"
                )
        found.setdefault(meant[0], set()).update(classes)
    if not found:
        raise ExperimentError(f"{path}: has no label; write {EXAMPLE}")
    return found


def _names_of(images):
    """{path, name, or name without ending: the images that it may mean}."""
    called = {image: (image,) for image in images}
    short = {}
    for image in images:
        pure = PurePosixPath(image)
        bare = str(pure.with_suffix("")).removesuffix(PHOTO)
        for name in {pure.name, pure.stem, str(pure.with_suffix("")), bare, PurePosixPath(bare).name}:
            short.setdefault(name, []).append(image)
    return {name: tuple(meant) for name, meant in short.items()} | called


def _rows(path):
    """(where, image, classes) of each line or entry."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise ExperimentError(f"--labels {path}: no such file; name one with {EXAMPLE}") from None
    except UnicodeDecodeError:
        raise ExperimentError(f"{path}: no UTF-8 text; write {EXAMPLE}") from None
    if path.suffix.lower() == ".json":
        yield from _entries(path, text)
        return
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for at, ((number, _), row) in enumerate(zip(lines, cells(path, lines), strict=True)):
        if at == 0 and row[0].lower() in HEADS:
            continue
        if len(row) < 2:
            raise ExperimentError(f"{path}: line {number}: no comma behind the image; write {EXAMPLE}")
        yield (
            f"{path}: line {number}",
            row[0],
            [name.strip() for name in re.split("[;|]", ";".join(row[1:])) if name.strip()],
        )


def _entries(path, text):
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ExperimentError(f"{path}: not JSON ({error}); write {EXAMPLE}") from None
    fits = isinstance(content, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in content.values()
    )
    if not fits:
        raise ExperimentError(f"{path}: no image with a list of names each; write {EXAMPLE}")
    for image, names in content.items():
        yield f"{path}: {image}", image, names
