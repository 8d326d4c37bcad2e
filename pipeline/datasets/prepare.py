"""Make a declared dataset available: images under the home root, annotations and a manifest as stage outputs.

The manifest says what the data are, not where or when they were fetched: two machines with the same data have
the same manifest, and it is what later stages depend on instead of 118,287 image files.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

from filelock import FileLock

from pipeline.datasets import coco, coco_check, generated
from pipeline.datasets.annotations import listed_image_sizes, read_instances
from pipeline.datasets.categories import CATEGORIES, VOC
from pipeline.errors import ExperimentError

SUBSETS = ("train2017", "val2017")


def fill_generated(name, spec, root):
    """Draw a generated dataset into `root`, unless it is there. Gives its identity for the manifest."""
    generated.check_spec(spec)
    identity = {"spec": {key: spec[key] for key in generated.SPEC_KEYS}}
    marker = root / "spec.json"
    if not marker.exists() or json.loads(marker.read_text()) != identity:
        staging = root.with_name(f"{root.name}.drawing")
        shutil.rmtree(staging, ignore_errors=True)
        generated.generate(spec, staging, staging / "annotations")
        (staging / marker.name).write_text(json.dumps(identity))
        shutil.rmtree(root, ignore_errors=True)
        os.replace(staging, root)
    return identity


# How each kind of dataset fills `root` with train2017/, val2017/ and annotations/.
KINDS = {"generated": fill_generated, "coco": coco.fill}
NOT_FOR_KINDS = ("kind", "profile")


def prepare(name, entry, *, images_root, out_dir):
    """Make a dataset available and write its annotations and manifest.

    Args:
        name: of the dataset.
        entry: its declaration in experiments.yaml; `kind` chooses from `KINDS`, the rest is that kind's.
        images_root: where images live, as `train2017/` and `val2017/`; left alone if complete.
        out_dir: gets `annotations/instances_{train,val}2017.json` and `manifest.json`, the latter last.

    Raises:
        ExperimentError: unknown kind, anything a kind raises, broken annotations, missing images.
    """
    images_root, out_dir = Path(images_root), Path(out_dir)
    with _filled(name, entry, images_root) as identity:
        manifest = {"dataset": name, "kind": entry["kind"], **identity, "subsets": {}}
        checkers = []
        for subset in SUBSETS:
            checkers.append(coco_check.Checker(images_root / "annotations" / f"instances_{subset}.json"))
            manifest["subsets"][subset] = _check_subset(images_root, subset, checkers[-1])
        coco_check.publish(checkers, out_dir / "annotations")
    part = out_dir / "manifest.json.part"
    part.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(part, out_dir / "manifest.json")


def ensure_images(name, entry, *, images_root, manifest):
    """Have the images that a manifest describes: nothing is done where they are, else they are drawn or fetched.

    DVC may restore annotations and manifest from a cache it shares with another working copy; images are not in it.

    Raises:
        ExperimentError: the manifest is missing or is of other data, or anything `prepare` raises.
    """
    try:
        described = json.loads(Path(manifest).read_text())
    except FileNotFoundError:
        raise ExperimentError(f"{manifest}: no such file; run `dvc repro download`") from None
    with _filled(name, entry, Path(images_root)) as identity:
        if any(described.get(key) != value for key, value in identity.items()):
            raise ExperimentError(f"{manifest} is not of the dataset {name} as declared now; run `dvc repro download`")


@contextlib.contextmanager
def _filled(name, entry, images_root):
    """Hold the images' lock while `images_root` is filled; yields the identity of the data."""
    if entry.get("kind") not in KINDS:
        raise ExperimentError(
            f"experiments.yaml: datasets.{name}.kind is {entry.get('kind')!r}; valid: {', '.join(KINDS)}"
        )
    images_root.parent.mkdir(parents=True, exist_ok=True)
    # Several experiments may run side by side and share the images.
    with FileLock(images_root.with_name(f"{images_root.name}.lock")):
        options = {key: value for key, value in entry.items() if key not in NOT_FOR_KINDS}
        yield KINDS[entry["kind"]](name, options, images_root)


def _check_subset(root, subset, checker):
    """Check annotations and images of a subset; give its entry of the manifest."""
    path, folder = root / "annotations" / f"instances_{subset}.json", root / subset
    names, count = [], Counter()
    voc = {category.id for category in CATEGORIES if category.name in VOC}  # the file is checked to have these ids
    read_instances(
        path,
        lambda images, _: names.extend(image["file_name"] for image in images),
        lambda annotations, _: count.update(
            "crowd" if annotation.get("iscrowd") else "voc" if annotation["category_id"] in voc else "nonvoc"
            for annotation in annotations
        ),
        checker,
    )
    if not folder.is_dir():
        raise ExperimentError(f"folder {folder} is missing; run stage download again")
    sizes = listed_image_sizes(path, names, folder)
    checker.check_images(folder)
    if folder.is_symlink():  # not unpacked by us, so no CRC was checked
        coco.check_whole(folder, list(sizes))
    listing = "".join(f"{name} {size}\n" for name, size in sorted(sizes.items()))
    return {
        "images": len(sizes),
        "instances": {"voc": count["voc"], "nonvoc": count["nonvoc"]},
        "crowd_annotations": count["crowd"],
        "image_names_and_sizes_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "annotations_sha256": _sha256(path),
    }


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
