"""A user's own data: a folder of images, which stays where it is, and one or two COCO files of annotations.

Whether an object has a mask is a property of the object. The files are brought into one form (`exports`), checked as
COCO's are (`coco_check`) and, where there is one alone, parted into training and validation images by a seeded rule.
"""

import hashlib
import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pipeline.datasets import coco, coco_check, contents, exports
from pipeline.datasets.annotations import REMEDY, read_instances
from pipeline.datasets.contents import Filled
from pipeline.datasets.images import remedy
from pipeline.declaration.label_sets import Category, LabelSet
from pipeline.errors import ExperimentError

TRAIN, VALIDATION = "train", "val"  # names of the subsets
KEPT = 2  # objects with a mask, of a class that has some, which stay in the training images if there are as many
AGAIN = "correct the file, then run the same command again"


class Gathered(NamedTuple):
    """What the files hold, checked.

    Attributes:
        labels: LabelSet of the classes.
        subsets: {"train", "val"}: content of an annotation file each.
        findings: {name of a file: {kind: coco_check.Finding}}.
        notes: {what the tool's export made necessary: number of objects}.
    """

    labels: LabelSet
    subsets: dict
    findings: dict
    notes: dict


def digest(path):
    """Hex SHA-256 of a file. Raises ExperimentError if it is not there."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ExperimentError(f"{path}: no such file; put the annotations back where they were") from None


def identify(source):
    """What identifies the data, for the manifest: not where the files are, but what they hold."""
    options = source.options
    identity = {"files": [file["sha256"] for file in files_of(options)], "classes": _ids(source.label_set)}
    if "val_annotations" not in options:
        identity |= {key: options[key] for key in ("val_fraction", "seed")}
    return identity | {"rectangles": options.get("keep_rectangles", False)}


def files_of(options):
    """The annotation files of an entry, `{path, sha256}` each: of training, then of validation if there is one."""
    return [options[key] for key in ("annotations", "val_annotations") if key in options]


def fill(source, root, _downloads, _check):
    """Write annotations and links to the images beside `root`. See `contents.Filled`.

    Raises:
        ExperimentError: a file is another than when it was declared, or whatever `gather` raises.
    """
    options = source.options
    again = f"run `python -m commands.own {source.name} --force`"
    for file in files_of(options):
        if digest(file["path"]) != file["sha256"]:
            raise ExperimentError(f"{file['path']}: was changed since {source.name} was declared; {again}")
    gathered = gather(options, source.label_set)
    coco.refuse_others_files(root, coco.folders_of(source))
    staging = contents.beside(root)
    contents.discard(staging)
    (staging / "annotations").mkdir(parents=True)
    for name, subset in zip((TRAIN, VALIDATION), source.subsets, strict=True):
        text = json.dumps(gathered.subsets[name], separators=(",", ":"))
        (staging / "annotations" / f"instances_{subset}.json").write_text(text, encoding="utf-8")
        (staging / subset).symlink_to(Path(options["images"]).resolve(), target_is_directory=True)
    identity = identify(source)
    contents.write_json(staging / contents.MARKERS["own"], identity)
    return Filled(identity, staging, lambda: contents.swap(staging, root))


def gather(options, labels=None):
    """Read, check and part a user's files.

    Args:
        options: of the entry: `images`, `annotations` and `val_annotations` (`{path}`), or instead of the latter
            `val_fraction` and `seed`; `keep_rectangles`.
        labels: LabelSet of the classes; of the training file's objects by default.

    Returns:
        Gathered.

    Raises:
        ExperimentError: one line on the first thing that is wrong, with the user's file.
    """
    folder = Path(options["images"])
    if not folder.is_dir():
        state = "is no folder; " if folder.exists() else "no such folder; mount the disk that it is on, or "
        raise ExperimentError(f"{folder}: {state}name the folder that your images are in: --images DIR")
    paths = [Path(file["path"]) for file in files_of(options)]
    if len(paths) == 2 and paths[0].resolve() == paths[1].resolve():
        raise ExperimentError(f"{paths[0]}: named twice; leave --val-annotations out to set images of it apart")
    read = [exports.read(path) for path in paths]
    labels = labels or _labels(paths[0], read[0])
    checked, findings, notes = [], {}, Counter()
    for path, content in zip(paths, read, strict=True):
        keep = options.get("keep_rectangles", False)
        content, found = exports.normalised(path, content, _ids(labels), folder, keep)
        notes.update(found)
        content, findings[path.name] = _checked(path, content, labels, folder)
        checked.append(content)
    if len(checked) == 2:
        _refuse_shared_images(paths, checked)
        subsets = dict(zip((TRAIN, VALIDATION), checked, strict=True))
    else:
        subsets = parted(checked[0], options["val_fraction"], options["seed"])
    for name, path in zip((TRAIN, VALIDATION), (paths[0], paths[-1]), strict=True):
        if not subsets[name]["annotations"]:
            raise ExperimentError(
                f"{path}: {len(subsets[name]['images'])} images and no object are left for {name}; "
                "give more images, or another --val-fraction or --val-annotations"
            )
    return Gathered(labels, subsets, findings, dict(notes))


def _labels(path, content):
    """The classes of a file as a label set, without directions; ids of the file if all readers take them."""
    found = exports.classes_of(path, content)
    if all(type(number) is int and 0 <= number <= coco_check.LARGEST_ID for number in found):
        pairs = sorted(found.items())
    else:
        pairs = list(enumerate(found.values(), 1))
    categories = tuple(Category(number, name, "") for number, name in pairs)
    names = tuple(category.name for category in categories)
    return LabelSet(path.stem, path.name, categories, {"all": names, "none": ()}, {})


def _ids(labels):
    return {category.name: category.id for category in labels.categories}


def _checked(path, content, labels, folder):
    """Check all of the content as COCO's files are checked; gives it mended, and the findings."""
    with tempfile.TemporaryDirectory() as scratch:
        copy, mended = Path(scratch) / path.name, Path(scratch) / "mended.json"
        copy.write_text(json.dumps(content), encoding="utf-8")
        checker = coco_check.Checker(copy, labels, quiet=True)
        try:
            read_instances(copy, labels, checks=checker)
            checker.check_images(folder)
        except ExperimentError as error:
            text = str(error).replace(str(copy), str(path))
            raise ExperimentError(text.replace(REMEDY, AGAIN)) from None
        coco.check_whole(folder, [image["file_name"] for image in content["images"]], remedy(folder))
        coco_check.copy(checker, mended)
        return json.loads(mended.read_bytes()), checker.findings


def _refuse_shared_images(paths, checked):
    names = [{image["file_name"] for image in content["images"]} for content in checked]
    if shared := sorted(names[0] & names[1]):
        raise ExperimentError(
            f"{paths[1]}: {len(shared)} of its images are in {paths[0].name} too, such as {shared[0]}: scores would be "
            "of images that were trained on; take them out of one of the files"
        )


def parted(content, fraction, seed):
    """Set images apart for validation: {"train", "val"}.

    Images go in the order of a hash of seed and file name, whatever their order in the file. One whose
    absence would leave a class without an object, or with fewer than `KEPT` masks, stays in training. One with an
    object that has no mask, of a class that has some, goes last: one such object leaves the class without mask AP.

    Args:
        content: of an annotation file, checked.
        fraction: of the images, above 0 and below 1.
        seed: a number.
    """
    of_image = {}
    for annotation in content["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    objects, masks = Counter(), Counter()
    for annotation in content["annotations"]:
        _count(annotation, objects, masks)
    least = {category: min(KEPT, masks[category]) for category in objects}
    lacking = {each["image_id"] for each in content["annotations"] if masks[each["category_id"]] and _is_box(each)}

    def place(image):
        return image["id"] in lacking, hashlib.sha256(f"{seed} {image['file_name']}".encode()).digest()

    wanted, apart = max(1, math.floor(fraction * len(content["images"]) + 0.5)), set()
    for image in sorted(content["images"], key=place):
        if len(apart) == wanted:
            break
        here, here_masks = Counter(), Counter()
        for annotation in of_image.get(image["id"], []):
            _count(annotation, here, here_masks)
        if here and all(
            objects[category] > count and masks[category] - here_masks[category] >= least[category]
            for category, count in here.items()
        ):
            apart.add(image["id"])
            objects.subtract(here)
            masks.subtract(here_masks)

    def side(chosen):
        return content | {
            "images": [image for image in content["images"] if (image["id"] in apart) == chosen],
            "annotations": [each for each in content["annotations"] if (each["image_id"] in apart) == chosen],
        }

    return {TRAIN: side(False), VALIDATION: side(True)}


def _is_box(annotation):
    """Whether an object, not a crowd, has no mask."""
    return not annotation.get("iscrowd") and "segmentation" not in annotation


def _count(annotation, objects, masks):
    if not annotation.get("iscrowd"):
        objects[annotation["category_id"]] += 1
        masks[annotation["category_id"]] += "segmentation" in annotation
