"""Write the training annotations of a direction: maps of base classes, and which novel classes an image shows.

What is not in the files cannot leak: a pixel of a novel class is written as one without label, and the only other
thing that is written of novel pixels is the list of novel classes of the image. A source in which they lie elsewhere
gives the same bytes. `complete.py`, which some ablations ask for, alone reads more.
"""

import logging
from pathlib import Path

import numpy as np

from pipeline.artifacts.files import write_text, writing
from pipeline.datasets.label_maps import IGNORE
from pipeline.datasets.label_maps.checking import classes_in
from pipeline.datasets.label_maps.packs import Pack, Writer
from pipeline.errors import ExperimentError

logger = logging.getLogger("pipeline.split")


def hide(annotations, label_set, direction, folder, statistics=None, caption=("", "")):
    """Write `train.json` and `train.pack` of one direction, an index and a pack of label maps (`packs`).

    In a map a pixel has the position of its class in the label set if that is a base class, else 255. An image's entry
    has `base` and `novel`, positions of the classes that it shows; the index has those of the direction under the same
    names. What the source says of whole images, `labels`, counts for novel classes; `unmapped` marks those without map,
    which are left out if they show no novel class: they would teach that nothing is there.

    Args:
        annotations: path of the index of the complete maps.
        label_set: of the maps.
        direction: a name or `{"base": group, "novel": group}`, see `LabelSet.base_and_novel`. Classes of neither group
            are hidden, too.
        folder: created if missing.
        statistics, caption: of other tasks.

    Raises:
        ExperimentError: bad direction or index, maps of another label set, no image with a base or novel class.
    """
    folder, source = Path(folder), Pack(annotations)
    if tuple(source.facts.get("classes", ())) != label_set.names:
        raise ExperimentError(
            f"{annotations}: of other classes than {label_set.title}'s; run `python -m stages.download`"
        )
    base, novel = (
        np.array([label_set.names.index(name) for name in names], np.int64)
        for names in label_set.base_and_novel(direction)
    )
    shown = np.full(IGNORE + 1, IGNORE, np.uint8)
    shown[base] = base
    images = {"base": 0, "novel": 0}
    with writing(folder / "train.pack") as file:
        writer = Writer(file, "train.pack")
        for position, image in enumerate(source.images):
            complete = source.read(position)
            present = classes_in(complete, len(label_set))
            said = np.union1d(present, np.array(image.get("labels", []), np.int64))
            found = {"base": present[np.isin(present, base)], "novel": said[np.isin(said, novel)]}
            if image.get("unmapped") and not len(found["novel"]):
                continue
            for group, classes in found.items():
                images[group] += bool(len(classes))
            facts = {"unmapped": True} if image.get("unmapped") else {}
            facts |= {key: value.tolist() for key, value in found.items()}
            writer.add(image["file_name"], shown[complete], **facts)
    if not any(images.values()):
        raise ExperimentError(
            f"{annotations}: nothing to train on: no image shows a class of the direction; use other images or another "
            "direction"
        )
    if len(base) and not images["base"]:
        raise ExperimentError(
            f"{annotations}: no base mask left to train on: no image shows a base class; use other images or another "
            "direction"
        )
    groups = {"base": base.tolist(), "novel": novel.tolist()}
    write_text(folder / "train.json", writer.index(classes=list(label_set.names), **groups))
    logger.info("%d images: %d show base classes, %d novel ones", len(writer), images["base"], images["novel"])
