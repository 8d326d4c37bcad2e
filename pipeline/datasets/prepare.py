"""Make a declared dataset available: images under the home root, annotations and a manifest as stage outputs.

The manifest says what the data are, not where or when they were fetched: two machines with the same data have
the same manifest, and it is what later stages depend on instead of 118,287 image files.

Only `prepare`, that is stage download, changes data, and what is new is complete and checked before the old makes
room. The other stages call `ensure_images`, which only looks.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pipeline.artifacts import locks
from pipeline.datasets import coco, coco_check, contents, own
from pipeline.datasets.annotations import REMEDY, listed_image_sizes, read_instances
from pipeline.datasets.contents import Filled, Source
from pipeline.datasets.files import refusals_told, require_regular
from pipeline.datasets.generated import scenes
from pipeline.datasets.images import remedy, resolve_names
from pipeline.datasets.label_maps import checking, drawn, official
from pipeline.datasets.label_maps import own as own_maps
from pipeline.declaration import subsets
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError

BUFFER = 1 << 20  # bytes


def identify_generated(source):
    """What identifies a generated dataset, for the manifest. Raises ExperimentError for looks that nothing has."""
    spec, labels = source.options, source.label_set
    scenes.cast(labels, spec.get("looks"), spec["version"])
    drawn = {"spec": {key: spec[key] for key in scenes.SPEC_KEYS}}
    if "looks" in spec:
        drawn |= {"looks": spec["looks"], "categories": {category.name: category.id for category in labels.categories}}
    return drawn


def fill_generated(source, root, _downloads, _check):
    """Draw a generated dataset for `root`, unless it is there as it was drawn."""
    identity, marker = identify_generated(source), contents.MARKERS["generated"]
    drawn = contents.recorded(root).get(marker)
    if drawn and contents.read_json(root / marker) == identity and not contents.differing(root, drawn):
        return Filled(identity, root, lambda: None)
    coco.refuse_others_files(root, coco.folders_of(source))
    staging = contents.beside(root)
    contents.discard(staging)
    try:
        scenes.generate(source.options, source.label_set, source.subsets, staging, staging / "annotations")
    except BaseException:  # what is half drawn is of no use, and the disk may be full
        contents.discard(staging)
        raise
    files = [str(path.relative_to(staging)) for path in sorted(staging.rglob("*")) if path.is_file()]
    contents.record(staging, {marker: contents.found(staging, files)})
    contents.write_json(staging / marker, identity)
    return Filled(identity, staging, lambda: contents.swap(staging, root))


def describe_objects(folder, source, outputs):
    """Check annotations and images of a dataset in COCO's format, and write its annotations.

    Args:
        folder: holds them, see `contents.Filled`.
        source: contents.Source.
        outputs: `_Outputs`.

    Returns:
        The entries of the manifest: {subset: facts}.
    """
    entries, checkers = {}, {}
    for subset in source.subsets:
        entries[subset], checkers[subset] = _check_subset(folder, subset, source.label_set)
    for subset in source.subsets:
        part = outputs.part(Path("annotations") / f"instances_{subset}.json")
        coco_check.copy(checkers[subset], part)
        entries[subset]["annotations_sha256"] = _sha256(part)
    findings = {checker.path.name: checker.findings for checker in checkers.values()}
    outputs.part(Path("annotations/findings.md")).write_text(coco_check.table(findings), encoding="utf-8")
    return entries


class Kind(NamedTuple):
    """A kind of dataset.

    Attributes:
        identify: what identifies it, looking at its declaration only.
        fill: brings its images, see `contents.Filled`.
        describe: checks them and writes the annotations, see `describe_objects`.
    """

    identify: object
    fill: object
    describe: object = describe_objects


KINDS = {
    "generated": Kind(identify_generated, fill_generated),
    "coco": Kind(coco.identify, coco.fill),
    "own": Kind(own.identify, own.fill),
    "own_maps": Kind(own_maps.identify, own_maps.fill, own_maps.describe),
    "label_maps": Kind(official.identify, official.fill, checking.describe),
    "drawn_maps": Kind(drawn.identify, drawn.fill, checking.describe),
}
# What is corrected where it was unpacked is brought back as it was.
IN_ARCHIVE = (
    "its archive holds it like that: correct the file there and declare the archive's new bytes and checksums in "
    "pipeline/experiments/datasets.yaml, then run `python -m stages.download`"
)
NOT_FOR_KINDS = ("kind", "profile", "paper_data", "label_set", "initial_weights", *subsets.PARTS)


def prepare(name, entry, *, images_root, out_dir):
    """Make a dataset available and write its annotations and manifest.

    Args:
        name: of the dataset.
        entry: its declaration in datasets.yaml; `kind` chooses from `KINDS`, the rest is that kind's.
        images_root: where images live, a folder for each subset, such as `train2017/`; left alone if complete.
        out_dir: gets `annotations/instances_<subset>.json` or, of label maps, `maps_<subset>.json` for each and
            `manifest.json`, the latter last.

    Raises:
        ExperimentError: unknown kind, anything a kind raises, broken annotations, missing images, a disk that refuses.
            Then what was there before still is.
    """
    images_root, out_dir = Path(images_root), Path(out_dir)
    kind, source = _kind(name, entry)
    kind.identify(source)  # before anything is written

    def check(folder, subset):
        return _check_subset(folder, subset, source.label_set)

    with refusals_told(images_root):
        images_root.parent.mkdir(parents=True, exist_ok=True)
        # Several experiments may run side by side and share the images.
        with locks.hold(images_root.with_name(f"{images_root.name}.lock"), f"the images of {name}"):
            root = images_root.resolve() if images_root.is_symlink() else images_root  # such as to another disk
            contents.recover(root)
            if images_root.is_symlink() and not root.exists():
                raise ExperimentError(f"{images_root} leads to {root}, where nothing is; mount it or remove the link")
            filled = kind.fill(source, root, images_root.parent / "downloads", check)
            manifest = {"dataset": name, "kind": entry["kind"], **filled.identity}
            with _Outputs(out_dir) as outputs:
                manifest["subsets"] = kind.describe(filled.folder, source, outputs)
                part = outputs.part(Path("manifest.json"))
                part.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
                filled.install()
                outputs.publish()
            contents.tidy(root)


def ensure_images(name, entry, *, images_root, manifest):
    """Look whether the images that a manifest describes are there. Changes nothing.

    DVC may restore annotations and manifest from a cache it shares with another working copy; images are not in it.

    Raises:
        ExperimentError: manifest or images are missing, unfinished, or not of the dataset as it is declared now.
    """
    kind, source = _kind(name, entry)
    images_root, again = Path(images_root), f"run `python -m stages.download {name}`"
    if variable := entry.get("root_env"):
        again += f" ({variable}=FOLDER before it takes a folder that you have)"
    identity = kind.identify(source)
    described = contents.read_json(manifest)
    if not described:
        raise ExperimentError(f"{manifest}: no such file, or damaged; {again}")
    if edited := _difference(identity, {key: described.get(key) for key in identity}):
        raise ExperimentError(
            f"{manifest} is of other data than pipeline/experiments/datasets.yaml declares now "
            f"(datasets.{name}.{edited}); "
            f"undo that edit, or {again}; it keeps the images until the new ones are complete"
        )
    for subset in source.subsets:
        folder = images_root / subset
        if not folder.is_dir():
            where = f", which leads to {os.readlink(folder)}" if folder.is_symlink() else ""
            raise ExperimentError(f"the images of {name} are not there: no folder {folder}{where}; {again}")
    marker = images_root / contents.MARKERS[entry["kind"]]
    expected = identity.get("archives", identity)
    if contents.managed(images_root) and contents.read_json(marker) != expected:
        raise ExperimentError(f"{images_root} is unfinished or of other data than {manifest}; {again}")


def _kind(name, entry):
    options = {key: value for key, value in entry.items() if key not in NOT_FOR_KINDS}
    return KINDS[entry["kind"]], Source(name, options, label_set(entry["label_set"]), subsets.names(entry))


def _difference(declared, described):
    """The first key, with dots, whose declared value is not the described one; `None` if there is none."""
    for key in {**declared, **described}:
        if declared.get(key) != described.get(key):
            values = declared.get(key), described.get(key)
            inner = _difference(*values) if all(isinstance(value, dict) for value in values) else None
            return f"{key}.{inner}" if inner else key
    return None


def _check_subset(root, subset, labels):
    """Check annotations and images of a subset.

    Returns:
        Its entry of the manifest, and the coco_check.Checker that the annotations passed.
    """
    path, folder = root / "annotations" / f"instances_{subset}.json", root / subset
    unpacked = contents.managed(root) and not folder.is_symlink()  # else the images are somebody's own
    require_regular(path)
    if not path.exists():
        raise ExperimentError(f"{path}: no such file; the source of the images has to hold it too")
    checker = coco_check.Checker(path, labels)
    names, count = [], Counter()  # the latter: of objects by category id, and of crowds
    try:
        read_instances(
            path,
            labels,
            lambda images, _: names.extend(image["file_name"] for image in images),
            lambda annotations, _: count.update(
                "crowd" if annotation.get("iscrowd") else annotation["category_id"] for annotation in annotations
            ),
            checker,
        )
        if not names or not checker.objects:
            raise ExperimentError(
                f"{path}: lists {len(names)} images and {checker.objects} annotations: nothing to "
                f"train or to evaluate on; {REMEDY}"
            )
    except ExperimentError as error:
        if not unpacked or not str(error).endswith(REMEDY):
            raise
        raise ExperimentError(f"{str(error).removesuffix(REMEDY)}{IN_ARCHIVE}") from None
    if not folder.is_dir():
        raise ExperimentError(f"{folder}: no such folder; the source of {path} has to hold it")
    on_disk = resolve_names(names, folder)
    sizes = listed_image_sizes(path, [on_disk[name] for name in names], folder)
    checker.check_images(folder, on_disk)
    delivered = "its source holds it like that: take it out of the annotations, or declare an archive with a whole one"
    coco.check_whole(folder, list(sizes), delivered if unpacked else remedy(folder))
    listing = "".join(f"{name} {size}\n" for name, size in sorted(sizes.items()))
    entry = {
        "images": len(sizes),
        "instances": _instances(labels, count),
        "crowd_annotations": count["crowd"],
        "image_names_and_sizes_sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }
    checker.rename(on_disk)
    coco_check.log(path.name, checker.findings)
    return entry, checker


def _instances(labels, count):
    """Objects of each group of a label set, from a count by category id."""
    ids = {category.name: category.id for category in labels.categories}
    return {group: sum(count[ids[name]] for name in names) for group, names in labels.declared_groups.items()}


class _Outputs:
    """Files of a folder that appear together, once all are written; in the order in which they were begun."""

    def __init__(self, folder):
        self._folder, self._parts = folder, {}

    def __enter__(self):
        return self

    def part(self, path):
        """Where to write a file of the folder."""
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        self._parts[part] = target
        return part

    def publish(self):
        for part, target in self._parts.items():
            os.replace(part, target)

    def __exit__(self, *_):
        for part in self._parts:
            part.unlink(missing_ok=True)


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
