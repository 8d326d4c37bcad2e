"""Give the objects of an annotation file that have boxes alone their masks; whatever the file has stays as it is."""

import contextlib
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline.artifacts import detections, files, locks
from pipeline.datasets import exports
from pipeline.declaration import strict
from pipeline.errors import ExperimentError, first_line
from pipeline.inference import drawing, masks, pictures
from pipeline.inference.ahead import in_order
from pipeline.reporting.report import render

SHOWN = 300  # objects on the page, the most doubtful ones
CROP = 220  # pixels of a crop's longer side on the page
AROUND = 0.3  # of the box that a crop shows on each side
REQUIRED = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


class Annotations:
    """A COCO annotation file, read as a whole.

    Args:
        path: of the file.
        keep_rectangles: a polygon that is no more than its box is a mask, and not a box as tools export it.

    Attributes:
        content: the file's, plain data; `path`, for messages.
        names: {category id: name}. images: {image id: entry}.

    Raises:
        ExperimentError: missing file, not JSON, not COCO format, or an unknown image or category referred to.
    """

    def __init__(self, path, keep_rectangles=False):
        self.path, self.keep_rectangles = Path(path), keep_rectangles
        self.content = exports.whole(path)
        for section, fields in REQUIRED.items():
            for position, entry in enumerate(self.content[section]):
                for field in fields:
                    if not isinstance(entry, dict) or isinstance(entry.get(field), list | dict | None):
                        lacks = f"{section}[{position}] has no {field!r}"
                        raise ExperimentError(f"{path}: not COCO format: {lacks}; export it as COCO instances")
        for position, image in enumerate(self.content["images"]):
            if not isinstance(exports.listed_name(image), str):
                lacks = f"images[{position}] has no 'file_name'"
                raise ExperimentError(f"{path}: not COCO format: {lacks}; export it as COCO instances")
            for field in ("width", "height"):
                if not isinstance(image.get(field), int | float | None):
                    wrong = f"images[{position}]: {field} is {strict.shown(image[field])}, valid: a number of pixels"
                    raise ExperimentError(f"{path}: {wrong}; correct the file")
        self.names = {
            number: category["name"] for number, category in self._by_id("categories", "give each class its own id")
        }
        for number, name in self.names.items():
            if not isinstance(name, str):
                raise ExperimentError(f"{path}: category {number}: name is {name!r}, valid: a text; correct the file")
        self.images = dict(self._by_id("images", "correct the file"))
        for position, annotation in enumerate(self.content["annotations"]):
            for field, known in (("image_id", self.images), ("category_id", self.names)):
                if (found := annotation[field]) not in known:
                    other = next((number for number in known if str(number) == str(found)), None)
                    listed = "" if other is None else f", which is listed as {other!r}"
                    unknown = f"annotations[{position}] has the unknown {field} {found!r}{listed}"
                    raise ExperimentError(f"{path}: {unknown}; correct the file")
            if not isinstance(annotation.get("segmentation"), list | dict | None):
                wrong = strict.shown(annotation["segmentation"])
                raise ExperimentError(
                    f"{path}: annotations[{position}]: segmentation is {wrong}, valid: polygons or run lengths; "
                    "export it as COCO instances"
                )

    def _by_id(self, section, remedy):
        """Pairs (id, entry) of a section. Raises ExperimentError for an id that two entries have."""
        seen = set()
        for entry in self.content[section]:
            if entry["id"] in seen:
                raise ExperimentError(f"{self.path}: {section} has the id {entry['id']!r} twice; {remedy}")
            seen.add(entry["id"])
            yield entry["id"], entry

    def name(self, annotation):
        return self.names[annotation["category_id"]]

    def chosen(self, classes):
        """Names of the classes that were asked for, all for None. Raises ExperimentError for an unknown one."""
        for name in classes or ():
            if name not in self.names.values():
                known = strict.options(name, self.names.values(), typed=True)
                raise ExperimentError(f"{self.path}: unknown class {name!r}{known}")
        return set(self.names.values() if classes is None else classes)

    def boxes(self, positions):
        """{position: box (x1, y1, x2, y2)} of annotations, without those that have no box with an extent.

        Raises:
            ExperimentError: none of them has one, or all of them end within the first pixel.
        """
        found = {}
        for position in positions:
            box = self.content["annotations"][position].get("bbox")
            if (
                isinstance(box, list)
                and len(box) == 4
                and all(isinstance(value, int | float) and math.isfinite(value) for value in box)
                and min(box[2:]) > 0
            ):
                found[position] = np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]], float)
        if len(positions) and not found:
            box = strict.shown(self.content["annotations"][positions[0]].get("bbox"))
            raise ExperimentError(
                f"{self.path}: none of {len(positions)} objects has a box with an extent, annotations[{positions[0]}]: "
                f"bbox is {box}, valid: four numbers x, y, width, height; correct the file"
            )
        if found and max(box.max() for box in found.values()) <= 1:
            raise ExperimentError(
                f"{self.path}: all boxes end within the first pixel: coordinates look normalised to 0..1, valid: "
                "pixels; multiply them by width and height"
            )
        return found

    def mask(self, position, height, width):
        """The mask [height, width] bool of an annotation. Raises ExperimentError for one that cannot be read."""
        mask = self.content["annotations"][position]["segmentation"]
        size = tuple(mask.get("size", ())) if isinstance(mask, dict) else (height, width)
        counts = mask.get("counts") if isinstance(mask, dict) else None
        if size != (height, width):
            reason = f"its size is {list(size)}, that of its image, height and width, {[height, width]}"
        elif isinstance(counts, list) and sum(counts) != height * width:
            reason = f"run lengths add up to {sum(counts)} pixels, its image has {height * width}"
        else:
            try:
                return masks.decoded(mask, height, width)
            except Exception as error:  # pycocotools raises all kinds
                reason = first_line(str(error))
        raise ExperimentError(
            f"{self.path}: annotations[{position}]: segmentation cannot be read ({reason}), valid: polygons or run "
            "lengths; correct the file"
        )

    def by_image(self, positions):
        """{image id: positions of its annotations}, in the order of the images of the file."""
        grouped = {}
        for position in positions:
            grouped.setdefault(self.content["annotations"][position]["image_id"], []).append(position)
        return {image: grouped[image] for image in self.images if image in grouped}

    def files(self, images, folder):
        """{image id: path} of some images. Raises ExperimentError if the folder or one of them is missing."""
        if not Path(folder).is_dir():
            state = "is a file" if Path(folder).exists() else "no such folder"
            raise ExperimentError(f"{folder}: {state}; name that of the images: --images DIR")
        listed = {image: self.file_name(image) for image in images}
        on_disk = exports.names_on_disk(list(listed.values()), folder) if listed else {}
        return {image: Path(folder) / on_disk[name] for image, name in listed.items()}

    def file_name(self, image):
        """The name that an image is listed with."""
        return exports.listed_name(self.images[image])

    def has_mask(self, annotation):
        """Whether an object has a mask, of whatever form; a crowd counts as one."""
        mask = annotation.get("segmentation")
        if isinstance(mask, dict):
            return bool(mask.get("counts"))
        if not self.keep_rectangles and exports.is_its_box(annotation):
            return False
        return bool(annotation.get("iscrowd")) or (isinstance(mask, list) and any(mask))

    def read(self, image, path):
        """The pixels that an image's boxes are of: stored or, if only that fits the annotated size, upright.

        Raises ExperimentError if it cannot be read or has another size.
        """
        entry = self.images[image]
        size = (entry.get("width"), entry.get("height"))
        picture = pictures.read(path, stored=True)
        if None in size or picture.shape[1::-1] == size:
            return picture
        upright = pictures.read(path)
        if upright.shape[1::-1] == size:
            return upright
        raise ExperimentError(
            f"image {path} has {picture.shape[1]}x{picture.shape[0]} pixels, its annotations say {size[0]}x{size[1]}"
        )


def complete(annotations, folder, filler, out, classes=None, form="polygons", overwrite=False):
    """Write an annotation file in which objects without a mask have one, and a page with the most doubtful of them.

    Masks are saved image by image beside `out`: what is killed goes on behind the last one. Other members, and objects
    that have a mask, are as they were. An object that gets one has `segmentation` and its `area`, `score` (the filler's
    confidence, if it has any) and `source`.

    Args:
        annotations: `Annotations`.
        folder: of the images.
        filler: see `fillers`.
        out: path of the file; the page lies beside it, with the suffix .html.
        classes: names of those to complete; all by default.
        form: of new masks, see `masks.encoded`.
        overwrite: whether `out` may exist.

    Returns:
        What was done, a table by class in Markdown and a sentence.

    Raises:
        ExperimentError: see `Annotations`; `out` exists; a class that the filler does not know; a missing image.
    """
    out = Path(out)
    if out.is_dir() or out.resolve() == annotations.path.resolve():
        raise ExperimentError(
            f"{out}: is {'a folder' if out.is_dir() else 'what is read'}; name another file: --out FILE"
        )
    if out.suffix.lower() == ".html":
        raise ExperimentError(f"{out}: is the name of the page beside it; name a file that ends in .json: --out FILE")
    if out.exists() and not overwrite:
        raise ExperimentError(f"{out}: exists; name another file, or replace it: --force")
    wanted = annotations.chosen(classes)
    entries = annotations.content["annotations"]
    without = [
        at for at, entry in enumerate(entries) if not annotations.has_mask(entry) and annotations.name(entry) in wanted
    ]
    boxes = annotations.boxes(without)
    images = annotations.by_image(boxes)
    if hasattr(filler, "require"):
        filler.require(sorted({annotations.name(entries[at]) for at in boxes}), annotations.path)
    paths = annotations.files(images, folder)
    skipped, filled = [], {}
    with _saved(annotations, paths, filler, out, form) as lines:
        pending = list(images)[lines.done :]
        progress = tqdm(
            total=len(images), initial=lines.done, desc=f"complete by {filler.source}", unit="image", mininterval=5
        )
        with progress:
            for image, picture in zip(pending, _pictures(annotations, pending, paths), strict=True):
                records = (
                    picture
                    if isinstance(picture, list)
                    else _masks(picture, images[image], boxes, entries, annotations, filler, form)
                )
                lines.add(str(image), records)
                progress.update()
        for image, records in zip(images, _records(lines), strict=True):
            if records and "unreadable" in records[0]:
                skipped.append((annotations.file_name(image), records[0]["unreadable"]))
                continue
            filled |= {record["at"]: record for record in records if record["segmentation"]}
        done = [_filled(entry, filled.get(at), filler) for at, entry in enumerate(entries)]
        files.write_text(out, json.dumps(annotations.content | {"annotations": done}, ensure_ascii=False) + "\n")
        page = _page(annotations, filled, boxes, paths, filler, skipped, len(without))
        files.write_text(out.with_suffix(".html"), render("doubtful.html", page))
    lines.path.unlink()
    pictures.warn_of(skipped)
    return _summary(annotations, wanted, filled, without, out)


@contextlib.contextmanager
def _saved(annotations, paths, filler, out, form):
    """The masks that earlier attempts saved, for one process at a time."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f"{out.name}.partial.jsonl")
    state = annotations.path.stat()
    identity = {
        "annotations": [str(annotations.path.resolve()), state.st_size, state.st_mtime_ns],
        "images": len(paths),
        "source": filler.source,
        "filler": filler.identity,
        "form": form,
    }
    with (
        locks.hold(out.with_name(f".{out.name}.lock"), f"the masks of {out}"),
        contextlib.closing(detections.PredictionLines(path, identity, [str(image) for image in paths])) as lines,
    ):
        yield lines


def _records(lines):
    with lines.path.open("rb") as file:
        file.readline()
        for line in file:
            yield json.loads(line.partition(b" ")[2])


def _pictures(annotations, images, paths):
    """Pictures in order, read ahead; for one that cannot be read, the records that say so."""

    def read(image):
        try:
            return annotations.read(image, paths[image])
        except ExperimentError as error:
            return [{"unreadable": str(error)}]

    return in_order(read, ((image,) for image in images))


def _masks(picture, positions, boxes, entries, annotations, filler, form):
    """Records of the objects of an image: {at, segmentation, area, score}, the first empty where nothing was found."""
    height, width = picture.shape[:2]
    inside = {at: np.clip(boxes[at], 0, [width, height, width, height]) for at in positions}
    inside = {at: box for at, box in inside.items() if (box[2:] - box[:2]).min() > 0}
    if not inside:
        return []
    names = [annotations.name(entries[at]) for at in inside]
    records = []
    for at, (mask, score) in zip(inside, filler(picture, np.stack(list(inside.values())), names), strict=True):
        records.append(
            {
                "at": at,
                "segmentation": masks.encoded(mask, form) if mask.any() else [],
                "area": int(mask.sum()),
                "score": None if score is None else round(score, 4),
            }
        )
    return records


def _filled(entry, record, filler):
    if record is None:
        return entry
    score = {} if record["score"] is None else {"score": record["score"]}
    return entry | {"segmentation": record["segmentation"], "area": record["area"], **score, "source": filler.source}


def _page(annotations, filled, boxes, paths, filler, skipped, without):
    """What the page shows: the objects with the least confidence first, as crops that it carries inside."""
    entries = annotations.content["annotations"]
    ranked = sorted(filled, key=lambda at: (1.0 if filled[at]["score"] is None else filled[at]["score"], at))[:SHOWN]
    cards = {}
    labels = {name: label for label, name in enumerate(annotations.names.values())}
    for image, positions in annotations.by_image(ranked).items():
        picture = annotations.read(image, paths[image])
        for at in positions:
            name = annotations.name(entries[at])
            cards[at] = {
                "name": name,
                "colour": drawing.hexadecimal(labels[name]),
                "score": filled[at]["score"],
                "file": annotations.file_name(image),
                "id": entries[at].get("id"),
                "picture": _crop(picture, boxes[at], filled[at]["segmentation"], labels[name]),
            }
    return {
        "title": f"{annotations.path.name}, completed by {filler.source}",
        "cards": [cards[at] for at in ranked],
        "filled": len(filled),
        "left": without - len(filled),
        "skipped": skipped,
        "classes": sorted({card["name"] for card in cards.values()}),
    }


def _crop(picture, box, segmentation, label):
    height, width = picture.shape[:2]
    wide, tall = AROUND * (box[2] - box[0]), AROUND * (box[3] - box[1])
    left, top = max(0, int(box[0] - wide)), max(0, int(box[1] - tall))
    right, bottom = min(width, int(box[2] + wide) + 1), min(height, int(box[3] + tall) + 1)
    mask = masks.decoded(segmentation, height, width)[top:bottom, left:right]
    crop = drawing.scaled(picture[top:bottom, left:right], CROP)
    mask = drawing.scaled(mask.astype(np.uint8), CROP, nearest=True).astype(bool)
    return drawing.inlined(drawing.overlay(crop, [(label, mask, "")]))


def _summary(annotations, wanted, filled, without, out):
    entries = annotations.content["annotations"]
    objects = Counter(annotations.name(entry) for entry in entries)
    lacking = Counter(annotations.name(entries[at]) for at in without)
    got = Counter(annotations.name(entries[at]) for at in filled)
    scores = {}
    for at, record in filled.items():
        if record["score"] is not None:
            scores.setdefault(annotations.name(entries[at]), []).append(record["score"])
    rows = [
        {
            "class": name,
            "objects": objects[name],
            "had a mask": objects[name] - lacking[name],
            "completed": got[name],
            "left": lacking[name] - got[name],
            "mean score": f"{np.mean(scores[name]):.3f}" if name in scores else "–",
        }
        for name in dict.fromkeys(annotations.names.values())
        if name in wanted and objects[name]
    ]
    table = f"{pd.DataFrame(rows).to_markdown(index=False)}\n" if rows else ""
    left = len(without) - len(filled)
    said = f"{len(filled)} masks added" + (f", {left} objects left as they were" if left else "")
    return f"{table}{said}: {out}; look at {out.with_suffix('.html')}"
