"""Look at all images and label maps of a data set, and write the maps in one form, a pack for each subset."""

import hashlib
import logging
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from pipeline.artifacts.paths import label_maps as index_of
from pipeline.datasets import contents
from pipeline.datasets.images import BROKEN, SUFFIXES, is_whole, remedy
from pipeline.datasets.label_maps import IGNORE, MOST_CLASSES, decoding, packs
from pipeline.errors import ExperimentError

logger = logging.getLogger(__name__)

# How files of label maps are read, and what they are called: by layout of a data set.
READERS = {
    "coco_stuff_10k": (decoding.read_stuff, ".mat"),
    "ade20k": (decoding.read_shifted, ".png"),
    "plain": (decoding.read_plain, ".png"),
}


def describe(folder, source, outputs):
    """Check images and label maps, and write an index and a pack of maps for each subset.

    Args:
        folder: holds `<subset>/` with images and `annotations/<subset>/` with a file of the same name for each.
        source: contents.Source; its option `layout` (default: `plain`) says how maps are stored, `train_images` and
            `val_images`, if given, how many images there have to be.
        outputs: `part(path)` gives where to write a file.

    Returns:
        The entries of the manifest: {subset: facts}.

    Raises:
        ExperimentError: a broken or missing image or map, one that does not fit the other, an unknown number, a number
            of images other than the declared one, more classes than a byte can tell apart.
    """
    options, labels = source.options, source.label_set
    if len(labels) > MOST_CLASSES:
        raise ExperimentError(
            f"label set {labels.name}: {len(labels)} classes; label maps have at most {MOST_CLASSES}: merge some"
        )
    layout, version, entries = options.get("layout", "plain"), decoding.Version(), {}
    for subset, declared in zip(source.subsets, ("train_images", "val_images"), strict=True):
        names = images_of(folder / subset)
        if not names or len(names) != options.get(declared, len(names)):
            raise ExperimentError(
                f"{folder / subset}: {len(names)} images, {options.get(declared, 'at least 1')} are due "
                f"(datasets.{source.name}.{declared} in pipeline/experiments/datasets.yaml); bring an official archive"
            )
        found = _checked_ones(folder, subset, names, source.label_set, layout, version)
        entries[subset] = write(subset, found, len(names), source, outputs)
    version.refuse_other(folder)
    return entries


def images_of(folder):
    """Names of the images of a folder, sorted. Raises ExperimentError if there is no such folder."""
    if not folder.is_dir():
        raise ExperimentError(f"{folder}: no such folder; run `python -m stages.download`")
    endings = {f".{suffix}" for suffix in SUFFIXES}
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in endings)


def write(subset, found, count, source, outputs):
    """Write the index and the pack of maps of a subset.

    Args:
        subset: its name.
        found: yields (file name, map uint8 [H, W], bytes of the image's file, further facts for the index).
        count: of them.
        source, outputs: as of `describe`.

    Returns:
        The entry of the manifest.
    """
    index = Path("annotations") / index_of(source.name, subset).name
    pack = index.with_suffix(".pack")
    shown, sizes = np.zeros(len(source.label_set), np.int64), []
    with open(outputs.part(pack), "wb") as file:
        writer = packs.Writer(file, pack.name)
        bar = tqdm(found, total=count, desc=f"checking {subset}", unit="image", mininterval=1)
        for name, label_map, size, facts in bar:
            present = classes_in(label_map, len(source.label_set))
            shown[present] += 1
            sizes.append(f"{name} {size}\n")
            writer.add(name, label_map, classes=present.tolist(), **facts)
    text = writer.index(subset=subset, classes=list(source.label_set.names))
    outputs.part(index).write_text(text, encoding="utf-8")
    logger.info("%s: %d images, %d of %d classes", subset, count, (shown > 0).sum(), len(shown))
    return {
        "images": count,
        "images_by_class": dict(zip(source.label_set.names, shown.tolist(), strict=True)),
        "image_names_and_sizes_sha256": hashlib.sha256("".join(sizes).encode()).hexdigest(),
        "annotations_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _checked_ones(folder, subset, names, labels, layout, version):
    for name in names:
        yield name, *_checked(folder, subset, name, labels, layout, version), {}


def _checked(folder, subset, name, labels, layout, version):
    """The map of an image, and the bytes of its file."""
    image, (read, suffix) = folder / subset / name, READERS[layout]
    path = folder / "annotations" / subset / f"{Path(name).stem}{suffix}"
    if not path.is_file():
        raise ExperimentError(f"{path}: no such file; every image needs its label map, or has to go")
    advice = remedy(image.parent) if contents.managed(folder) else "bring a whole one"
    try:
        with Image.open(image) as opened:
            width, height = opened.size
    except BROKEN:
        width, height = 0, 0
    if not width or not is_whole(image):
        raise ExperimentError(f"image {image} is truncated or not an image; {advice}")
    found = read(path, labels, version)
    if found.shape != (height, width):
        raise ExperimentError(
            f"{path}: {found.shape[1]} x {found.shape[0]} pixels, its image {width} x {height} as it is stored (an "
            "EXIF orientation is ignored); bring image and map of the same source"
        )
    return found, image.stat().st_size


def classes_in(label_map, num_classes):
    """Classes that a map, uint8 [H, W], shows, in ascending order, without `IGNORE`; int64 [classes]."""
    return np.flatnonzero(np.bincount(label_map.ravel(), minlength=IGNORE + 1)[:num_classes])
