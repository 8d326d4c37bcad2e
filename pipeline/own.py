"""Declare a user's own data: look through images and annotations, write label set, data set, runs and a table.

What is written is what one would write by hand, into two files that no other data set shares: `paths.own` and a label
set. Nothing else changes, and both are written or neither.
"""

import io
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from ruamel.yaml import YAML

from pipeline.artifacts import files, paths
from pipeline.datasets import coco_check, own
from pipeline.declaration import experiments, label_sets, strict
from pipeline.errors import ExperimentError

DIRECTION = "own"  # of every such label set: classes with masks are base
KNOBS = "pipeline/methods/contrastmask/knobs.yaml"
ROWS = {"mask_rcnn": "Baseline", "contrastmask": "ContrastMask"}  # method: label of its row
FEWEST = 2  # objects with a mask that a base class needs, and objects of base classes
WITH_GPU, WITHOUT = "own", "embedded"  # profiles
# How long profile `own` trains, in images, repetitions counted: as often as the paper passes over COCO, but so long
# that heads that begin from nothing learn (2000 steps of 8 images), and no image more than 100 times.
PASSES, LEAST, MOST_PASSES = 12, 16_000, 100
BATCH, LARGEST_BATCH, PER_GPU = 8, 16, 2  # images of a step: every GPU gets its two, up to the paper's 16
HEADER = "# Written by `python -m commands.own`. Runs may be added and edited; classes are in label_sets/{}.yaml.\n"


class Declared(NamedTuple):
    """What was found and written.

    Attributes:
        gathered: `pipeline.datasets.own.Gathered`.
        folder: of the images.
        groups: {class name: "base" or "novel"}.
        runs: names.
        warnings: sentences.
    """

    gathered: own.Gathered
    folder: Path
    groups: dict
    runs: list
    warnings: list


def options_of(name, images=None, annotations=None, val_annotations=None, fraction=None, seed=None, rectangles=False):
    """The entry of a user's data; what is left out is that of the entry that stands there.

    Raises:
        ExperimentError: nothing stands there, a share or a file that cannot be.
    """
    if images is None or annotations is None:
        before = experiments.load().datasets.get(name, {})
        if before.get("kind") != "own":
            raise ExperimentError(f"{name} is not declared yet; give --images FOLDER and --annotations FILE")
        images = images or before["images"]
        annotations = annotations or before["annotations"]["path"]
        if "val_annotations" in before and val_annotations is None and fraction is None:
            val_annotations = before["val_annotations"]["path"]
        fraction = before.get("val_fraction") if fraction is None else fraction
        seed = before.get("seed") if seed is None else seed
        rectangles = rectangles or before.get("keep_rectangles", False)
    if val_annotations is not None and fraction is not None:
        raise ExperimentError("--val-fraction parts one file of annotations; leave it out beside --val-annotations")
    options = {"images": str(Path(images).expanduser().absolute()), "annotations": _file(annotations)}
    if val_annotations is not None:
        options["val_annotations"] = _file(val_annotations)
    else:
        fraction = 0.2 if fraction is None else fraction
        if not 0 < fraction < 1:
            raise ExperimentError(f"--val-fraction is {fraction}; valid: a share above 0 and below 1, such as 0.2")
        options |= {"val_fraction": fraction, "seed": seed or 0}
    return options | ({"keep_rectangles": True} if rectangles else {})


def _file(path):
    return {"path": str(Path(path).expanduser().absolute())}


def declare(name, options, base=(), novel=(), profile=None, force=False):
    """Check a user's data and write their declaration.

    Args:
        name: of data set, label set and table; lower-case letters, digits and `_`.
        options: as `options_of` returns them.
        base, novel: names of classes that are to be so whatever masks they have; others are base if they have masks.
        profile: name of one; by default that of before, else `own` with a GPU, `embedded` without.
        force: replace what was declared under this name.

    Returns:
        Declared.

    Raises:
        ExperimentError: whatever is wrong, in one line; then nothing was written.
    """
    declared = experiments.load()
    require_free(name, declared, force, ROWS)
    from pipeline.hardware import gpu_names  # torch, which a mistake above need not wait for

    before = declared.datasets.get(name, {}).get("profile")
    profile = profile or before or (WITH_GPU if gpu_names() else WITHOUT)
    experiments.lookup(declared.profiles, profile, "profile")
    gathered = own.gather(options)
    groups = grouped(gathered, base, novel)
    for key in ("annotations", "val_annotations"):
        if key in options:
            options = options | {key: options[key] | {"sha256": own.digest(options[key]["path"])}}
    entry = {
        "kind": "own",
        "profile": profile,
        "label_set": name,
        "train": own.TRAIN,
        "validation": own.VALIDATION,
        **options,
    }
    if profile == WITH_GPU:
        entry |= scale(len(gathered.subsets[own.TRAIN]["images"]), len(gpu_names()))
    runs = {f"{name}_{method}": method for method in ROWS}
    _write(name, gathered.labels, groups, entry, runs)
    return Declared(gathered, Path(options["images"]), groups, list(runs), warnings(gathered, groups))


def scale(images, gpus):
    """Batch and length of a training with profile `own`: {"batch_size": images in a step, "iterations": steps}.

    The learning rate follows the batch by the linear rule (`declaration.config`). What was declared on one number of
    GPUs gives the same on another: fewer make a step in several iterations.

    Args:
        images: of training.
        gpus: there are; 0 counts as 1.
    """
    batch = min(max(BATCH, PER_GPU * gpus), LARGEST_BATCH)
    drawn = max(PASSES * images, min(LEAST, MOST_PASSES * images))
    return {"batch_size": batch, "iterations": max(PASSES, round(drawn / batch))}


def require_free(name, declared, force, ends):
    """Refuse a name that cannot be, or is that of something else (ExperimentError).

    Args:
        declared: `Experiments`.
        force: whether what `commands.own` declared under it may go.
        ends: what names of its runs end with.
    """
    if not name or not all(c in "abcdefghijklmnopqrstuvwxyz0123456789_" for c in name):
        raise ExperimentError(f"{name!r} is no name; valid: lower-case letters, digits and _, such as fruit_2024")
    path, labels = paths.own(name), label_sets.FOLDER / f"{name}.yaml"
    if path.exists():
        if not force:
            raise ExperimentError(f"{name} is declared already, in {path.name}; add --force to declare it anew")
        return
    taken = name in declared.datasets or name in declared.tables or labels.exists()
    if taken or any(f"{name}_{end}" in declared.runs for end in ends):
        raise ExperimentError(f"{name!r} is the name of another data set, table, run or label set; choose another name")


def masks_of(content):
    """Two counters by category id: objects without crowds, and those of them that have a mask."""
    objects, masks = Counter(), Counter()
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
            objects[annotation["category_id"]] += 1
            masks[annotation["category_id"]] += "segmentation" in annotation
    return objects, masks


def grouped(gathered, base=(), novel=()):
    """{class name: "base" or "novel"}: base is what has masks to train on, unless it is asked for otherwise.

    Raises:
        ExperimentError: an unknown class or one on both sides, a base class with too few masks, no mask at all, or one
            on every object.
    """
    names = gathered.labels.names
    for option, chosen in (("--base", base), ("--novel", novel)):
        for name in chosen:
            if name not in names:
                raise ExperimentError(f"{option} names the class {name!r}{strict.options(name, names, typed=True)}")
    if both := [name for name in base if name in novel]:
        raise ExperimentError(f"{', '.join(both)}: in --base and in --novel; leave it in one of them")
    objects, masks = masks_of(gathered.subsets[own.TRAIN])
    ids = {category.name: category.id for category in gathered.labels.categories}
    for name in base:
        if masks[ids[name]] < FEWEST:
            raise ExperimentError(
                f"--base names {name!r}, of which {masks[ids[name]]} of {objects[ids[name]]} training objects have a "
                f"mask; give at least {FEWEST} of them masks, or leave it to be novel"
            )
    if not masks.total():
        raise ExperimentError(
            f"none of the {objects.total()} training objects has a mask, so there is nothing to learn masks from; draw "
            f"masks for some objects of at least one class, {FEWEST} or more"
        )
    groups = {name: "base" if masks[ids[name]] else "novel" for name in names}
    groups |= dict.fromkeys(base, "base") | dict.fromkeys(novel, "novel")
    usable = sum(masks[ids[name]] for name, group in groups.items() if group == "base")
    if usable < FEWEST:
        raise ExperimentError(
            f"{usable} objects of base classes have a mask; at least {FEWEST} are needed: draw more, or take classes "
            "off --novel"
        )
    if masks == objects and "novel" not in groups.values() and not base:
        raise ExperimentError(
            "every object has a mask, so there is nothing to learn from boxes alone; hide the masks of some classes "
            f"with --novel {strict.shown(names[-1])} (validation is scored with them), or train on all with "
            f"--base {' '.join(map(repr, names[:3]))}{' ...' if len(names) > 3 else ''}"
        )
    return groups


def warnings(gathered, groups):
    """Sentences on what is right and perhaps not meant."""
    found = [f"{count} {what}" for what, count in gathered.notes.items()]
    found += [
        f"{file}: {each.count} {kind}, first {each.example}"
        for file, findings in gathered.findings.items()
        for kind, each in findings.items()
        if each.done in (coco_check.WARNED, coco_check.DROPPED)
    ]
    (objects, masks), (val_objects, val_masks) = (
        masks_of(gathered.subsets[name]) for name in (own.TRAIN, own.VALIDATION)
    )
    single = [c.name for c in gathered.labels.categories if objects[c.id] + val_objects[c.id] == 1]
    if single:
        found.append(f"a single object, nothing to learn a class from: {_some(single)}")
    if absent := [c.name for c in gathered.labels.categories if not objects[c.id]]:
        found.append(f"no training object: {_some(absent)}")
    if unseen := [c.name for c in gathered.labels.categories if not val_objects[c.id] and c.name not in single]:
        found.append(f"no validation object, so no AP: {_some(unseen)}")
    if boxes := [c.name for c in gathered.labels.categories if val_masks[c.id] < val_objects[c.id]]:
        found.append(f"validation objects without a mask, so box AP and no mask AP: {_some(boxes)}")
    few = [c.name for c in gathered.labels.categories if groups[c.name] == "base" and masks[c.id] < FEWEST]
    if few:
        found.append(f"a base class with a single mask: {_some(few)}")
    return found


def _some(names, most=8):
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def told(found, most=60):
    """What training and validation images hold, a line a class, as Markdown, and notes; of many classes the most
    frequent.
    """
    train, validation = (masks_of(found.gathered.subsets[name]) for name in (own.TRAIN, own.VALIDATION))
    rows = [
        {
            "Class": category.name,
            "Group": found.groups[category.name],
            "Train": train[0][category.id],
            "with mask": train[1][category.id],
            "Val": validation[0][category.id],
            "with mask ": validation[1][category.id],
        }
        for category in found.gathered.labels.categories
    ]
    shown = sorted(sorted(rows, key=lambda row: -row["Train"])[:most], key=lambda row: row["Group"])
    text = pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)
    left = f"\nand {len(rows) - most} classes with fewer objects" if len(rows) > most else ""
    counts = [len(found.gathered.subsets[name]["images"]) for name in (own.TRAIN, own.VALIDATION)]
    images = f"{counts[0]} training and {counts[1]} validation images"
    notes = "".join(f"\nnote: {each}" for each in found.warnings)
    return f"{images}, {len(rows)} classes; objects, and those with a mask:\n\n{text}{left}\n{notes}"


def next_commands(found):
    """What to type to train and to score, and to see the scores."""
    return [experiments.repro("evaluate", *found.runs), *(f"python -m commands.scores {run}" for run in found.runs)]


def _write(name, labels, groups, entry, runs):
    sides = {side: [each for each in labels.names if groups[each] == side] for side in ("base", "novel")}
    if not sides["novel"]:
        directions = {DIRECTION: {"base": "all", "novel": "none"}}
    else:
        directions = {DIRECTION: {"base": "base", "novel": "novel"}}
    directions |= {"boxes": {"base": "none", "novel": "all"}}
    rows = {ROWS[method]: (run, {"method": method, "knobs": KNOBS}) for run, method in runs.items()}
    write(name, labels, sides, directions, entry, f"Masks of {name}", rows)


def write(name, labels, sides, directions, entry, title, rows):
    """Write label set and declaration, or neither.

    Args:
        labels: LabelSet.
        sides: {group: class names}.
        directions: of the label set.
        entry: of the data set.
        title: of the table.
        rows: {label of a row: (name of its run, columns of that, those left out which all have)}.
    """
    declared = {
        label_sets.FOLDER / f"{name}.yaml": {
            "title": name,
            "classes": [{"id": category.id, "name": category.name} for category in labels.categories],
            "groups": {side: names for side, names in sides.items() if names},
            "directions": directions,
        },
        paths.own(name): {
            "datasets": {name: entry},
            "runs": {
                run: {
                    "method": columns["method"],
                    "backbone": "r50",
                    "schedule": "1x",
                    "direction": DIRECTION,
                    **columns,
                    "dataset": name,
                }
                for run, columns in rows.values()
            },
            "tables": {
                name: {"title": title, "rows": [{"label": label, "runs": [run]} for label, (run, _) in rows.items()]}
            },
        },
    }
    before = {path: path.read_text() if path.exists() else None for path in declared}
    try:
        for path, content in declared.items():
            text = io.StringIO()
            yaml = YAML()
            yaml.width = 120
            yaml.dump(content, text)
            files.write_text(path, HEADER.format(name) + text.getvalue())
        experiments.load()
        label_sets.label_set(name)
    except BaseException:
        for path, text in before.items():
            path.unlink(missing_ok=True) if text is None else files.write_text(path, text)
        raise
