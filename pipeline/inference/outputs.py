"""What `commands.predict` leaves: overlays, COCO results and annotations, label images, and a page to look through.

A few images at a time are in memory, however many there are: what the page and the end of annotations.json say of each
waits on disk.
"""

import contextlib
import json
import os
import tempfile
from collections import Counter
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline.artifacts import files
from pipeline.errors import ExperimentError
from pipeline.hardware import data_workers
from pipeline.inference import drawing, masks, pictures
from pipeline.inference.ahead import in_order
from pipeline.inference.predict import records
from pipeline.reporting import lettering
from pipeline.reporting.report import rendering

FORMS = ("polygons", "rle")
THUMBNAIL = 160  # pixels of the longer side


def write(lines, found, skipped, detector, out, score, classes, form=FORMS[0]):
    """Write everything into the folder of the results.

    Args:
        lines: detections.PredictionLines of `found`, complete.
        found: list of `pictures.Picture`.
        skipped: list of (name, reason) of pictures that could not be read; those that cannot be read now join them.
        detector: models.Detector.
        out: folder of the results.
        score: that detections have at least.
        classes: names of the classes that are wanted.
        form: of masks in annotations.json, one of `FORMS`.

    Returns:
        What was found, in words, for the terminal.
    """
    names = output_names([picture.name for picture in found])
    label_of = {number: label for label, number in enumerate(detector.ids)}
    wanted = {detector.ids[detector.names.index(name)] for name in classes}

    def one(position, detections):
        picture = found[position]
        kept = [record for record in detections if record["category_id"] in wanted]
        kept.sort(key=lambda record: -record["score"])
        return _one(picture, names[picture.name], kept, label_of, detector.names, out, form)

    counts, skipped = Counter(), list(skipped)
    with _Waiting(out) as images, _Waiting(out) as rows:
        with contextlib.ExitStack() as stack:
            results = stack.enter_context(_array(out / "results.json"))
            annotations = stack.enter_context(_array(out / "annotations.json", _header(detector), images=images))
            progress = stack.enter_context(
                tqdm(total=len(found), desc=f"results in {out}", unit="image", mininterval=5, disable=None)
            )
            for position, made in enumerate(in_order(one, enumerate(records(lines)), data_workers())):
                progress.update()
                if isinstance(made, ExperimentError):
                    skipped.append((found[position].name, str(made)))
                    continue
                image, kept, entries, row = made
                images.append({"id": position + 1, **image})
                rows.append(row)
                for record in kept:
                    results(record)
                for entry in entries:
                    counts[detector.names[label_of[entry["category_id"]]]] += 1
                    annotations({"id": sum(counts.values()), **entry})
        page = {"title": detector.title, "maps": False, "images": len(rows), "rows": rows, "skipped": skipped}
        page["score"] = score
        page["classes"] = [
            {"name": name, "colour": drawing.hexadecimal(detector.names.index(name)), "count": counts[name]}
            for name in classes
            if counts[name]
        ]
        with files.writing(out / "index.html") as file:
            file.writelines(part.encode() for part in rendering("predictions.html", page))
    pictures.warn_of(skipped)
    table = pd.DataFrame({"class": list(counts), "objects": list(counts.values())})
    said = f"{sum(counts.values())} objects in {len(rows)} images" + (f", {len(skipped)} skipped" if skipped else "")
    listed = f"{table.to_markdown(index=False)}\n" if counts else ""
    return f"{listed}{said}: look at {out / 'index.html'}"


def output_names(names):
    """{name: name of its files without suffix}: that of the picture, with its suffix where two would be the same."""
    stems = Counter(str(PurePosixPath(name).with_suffix("")).casefold() for name in names)
    short = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    return {name: stem if stems[stem.casefold()] == 1 else name for name, stem in short.items()}


def _header(detector):
    categories = zip(detector.ids, detector.names, strict=True)
    return {
        "info": {"description": f"predicted by {detector.title}"},
        "licenses": [],
        "categories": [{"id": number, "name": name, "supercategory": ""} for number, name in categories],
    }


def _one(picture, name, kept, label_of, names, out, form):
    """Draw and write one picture's files; an ExperimentError if it cannot be read any more.

    Returns:
        Its COCO image without id, the result records, their annotations without ids, and its line of the page.
    """
    try:
        image = pictures.read(picture.path)
    except ExperimentError as error:
        return error
    height, width = image.shape[:2]
    labels = np.zeros((height, width), np.uint16)
    entries, drawn, listed = [], [], []
    for value, record in reversed(list(enumerate(kept, 1))):  # the surest one in front
        mask = masks.decoded(record["segmentation"], height, width)
        labels[mask] = value
        label = label_of[record["category_id"]]
        entries.append(
            {
                "image_id": record["image_id"],
                "category_id": record["category_id"],
                "bbox": [round(value, 2) for value in record["bbox"]],
                "segmentation": masks.encoded(mask, form),
                "area": int(mask.sum()),
                "iscrowd": 0,
                "score": round(record["score"], 4),
                "mask_value": value,
            }
        )
        called = lettering.legible(names[label], f"class {record['category_id']}")
        drawn.append((label, mask, f"{called} {record['score']:.2f}"))
        listed.append([names[label], round(record["score"], 3)])
    entries, drawn, listed = entries[::-1], drawn[::-1], listed[::-1]
    shown = drawing.overlay(image, drawn)
    targets = {kind: f"{kind}/{name}.{suffix}" for kind, suffix in _KINDS.items()}
    _put(out / targets["overlays"], drawing.jpeg(shown))
    _put(out / targets["thumbnails"], drawing.jpeg(drawing.fitted(shown, THUMBNAIL)))
    _put(out / targets["masks"], drawing.encoded(labels, ".png"))
    row = {
        "name": picture.name,
        "size": [width, height],
        "overlay": targets["overlays"],
        "thumbnail": targets["thumbnails"],
        "objects": listed,
    }
    return {"file_name": picture.name, "width": width, "height": height}, kept, entries, row


_KINDS = {"overlays": "jpg", "thumbnails": "jpg", "masks": "png"}


def _put(path, content):
    """Write a picture's file in one step; `files` would look through the folder for leftovers each time."""
    with files.naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.part")
        temporary.write_bytes(content)
        os.replace(temporary, path)


class _Waiting:
    """JSON values that wait on disk; `append` takes them, iterating gives them back in order."""

    def __init__(self, folder):
        self.file, self.count = tempfile.TemporaryFile(dir=folder), 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __len__(self):
        return self.count

    def append(self, value):
        self.file.write(_dump(value) + b"\n")
        self.count += 1

    def __iter__(self):
        self.file.seek(0)
        return map(json.loads, self.file)


def _dump(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@contextlib.contextmanager
def _array(path, before=None, **after):
    """Write a JSON list entry by entry, complete or not at all; yields the function that takes an entry.

    Args:
        before: members of an object that the list is the member `annotations` of; None for the list alone.
        after: further lists of that object, read when the first one is complete.
    """
    with files.writing(path) as file:
        if before is not None:
            file.write(_dump(before)[:-1] + b',"annotations":')
        file.write(b"[")
        separator = b""

        def add(entry):
            nonlocal separator
            file.write(separator + _dump(entry))
            separator = b",\n"

        yield add
        file.write(b"]")
        for name, entries in after.items():
            file.write(b"," + _dump(name) + b":[")
            for position, entry in enumerate(entries):
                file.write(b"," * bool(position) + _dump(entry))
            file.write(b"]")
        file.write(b"\n" if before is None else b"}\n")
