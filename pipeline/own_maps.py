"""Declare a user's own label maps: look through images, maps and labels, write label set, data set, runs and a table.

What is written lies where `pipeline.own` writes that of objects.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline import own
from pipeline.datasets.label_maps import classes
from pipeline.datasets.label_maps import own as data
from pipeline.datasets.own import TRAIN, VALIDATION, digest
from pipeline.declaration import experiments, label_sets, strict
from pipeline.errors import ExperimentError

KIND = "own_maps"
KNOBS = "pipeline/methods/simformer/knobs.yaml"
ROWS = {"basic": ("Basic", {"pairs": "none"}), "simformer": ("SimFormer", {})}  # end of a run's name: label, knobs
WITH_GPU, WITHOUT = "own_maps", "embedded_own_maps"  # profiles
# How long profile `own_maps` trains, in images: as often as the paper passes over COCO-Stuff-10K (60,000 steps of 8),
# but so long that heads that begin from nothing learn (10,000 steps of 8), and no image more than 400 times.
PASSES, LEAST, MOST_PASSES = 53, 80_000, 400
BATCH, LARGEST_BATCH, PER_GPU = 8, 16, 2
OF_BOXES = ("annotations", "val_annotations", "keep_rectangles")  # options that label maps do not have
OF_MAPS = ("maps", "classes", "labels", "unlabelled", "map_ending")
ABSENT = "none"  # the group of a class with neither pixels nor labels


class Declared(NamedTuple):
    """What was found and written.

    Attributes:
        gathered: `pipeline.datasets.label_maps.own.Gathered`.
        folders: of images and maps.
        groups: {class name: `base`, `novel` or `none`}.
        runs: names.
        warnings: sentences.
    """

    gathered: data.Gathered
    folders: tuple
    groups: dict
    runs: list
    warnings: list


def add_options(parser):
    """Give `commands.own` the options of label maps."""
    group = parser.add_argument_group("label maps, in place of --annotations")
    group.add_argument("--maps", help="folder of PNG label maps, named as the images")
    group.add_argument("--classes", nargs="+", help="list of classes: a file, or lines `index[,colour],name`")
    group.add_argument("--labels", help="CSV or JSON of the classes that whole images show, for classes without pixels")
    group.add_argument("--unlabelled", nargs="+", help="values, or colours '#rrggbb', of maps that stand for no class")
    group.add_argument("--map-ending", help="what stands behind the image's name in that of its map, such as _mask")


def meant(args):
    """Whether the options of `commands.own` are of label maps. Raises ExperimentError if they are of both."""
    before = experiments.load().datasets.get(args.name, {})
    maps = [each for each in OF_MAPS if getattr(args, each) is not None]
    boxes = [each for each in OF_BOXES if getattr(args, each)]
    if not maps and (boxes or before.get("kind") != KIND):
        return False
    if boxes:
        raise ExperimentError(
            f"--{boxes[0].replace('_', '-')} is for objects with boxes, --{(maps or OF_MAPS)[0].replace('_', '-')} for "
            "label maps; leave one of them out"
        )
    return True


def options_of(args):
    """The entry of a user's data and the listed classes; what is left out is that of the entry that stands there.

    Args:
        args: of `commands.own`.

    Raises:
        ExperimentError: nothing stands there, or a value that cannot be.
    """
    before = experiments.load().datasets.get(args.name, {})
    before = before if before.get("kind") == KIND else {}
    needed = {"images": args.images, "maps": args.maps, "classes": args.classes}
    if not before and (lacking := [each for each, value in needed.items() if value is None]):
        raise ExperimentError(
            f"--{lacking[0]} is missing; give --images FOLDER, --maps FOLDER and --classes FILE of label maps"
        )
    options = {
        "images": _absolute(args.images) or before["images"],
        "maps": {"path": _absolute(args.maps) or before["maps"]["path"]},
    }
    if labels := _absolute(args.labels) or before.get("labels", {}).get("path"):
        options["labels"] = {"path": labels}
    if args.unlabelled is not None:
        options["unlabelled"] = [_unlabelled(text) for text in args.unlabelled]
    elif "unlabelled" in before and args.maps is None:
        options["unlabelled"] = before["unlabelled"]
    if ending := args.map_ending or before.get("map_ending"):
        options["map_ending"] = ending
    fraction = before.get("val_fraction") if args.val_fraction is None else args.val_fraction
    seed = before.get("seed") if args.seed is None else args.seed
    if fraction is None and seed is None and data.folders_tell(options["images"]):
        return options, _listed(args, before)
    fraction = 0.2 if fraction is None else fraction
    if not 0 < fraction < 1:
        raise ExperimentError(f"--val-fraction is {fraction}; valid: a share above 0 and below 1, such as 0.2")
    return options | {"val_fraction": fraction, "seed": seed or 0}, _listed(args, before)


def _absolute(path):
    return path and str(Path(path).expanduser().absolute())


def _unlabelled(text):
    if text.isascii() and text.isdecimal() and int(text) <= 65535:
        return int(text)
    if (colour := classes.colour_of(text)) is None:
        raise ExperimentError(f"--unlabelled {text!r}: valid: a value such as 255, or a colour such as '#000000'")
    return classes.hexadecimal(colour)


def _listed(args, before):
    if args.classes is not None:
        return classes.read(args.classes)
    colours = {name: classes.colour_of(colour) for name, colour in before.get("colours", {}).items()}
    categories = label_sets.label_set(args.name).categories
    return [classes.Listed(each.name, each.id, colours.get(each.name)) for each in categories]


def declare(name, options, listed, base=(), novel=(), profile=None, force=False):
    """Check a user's label maps and write their declaration.

    Args:
        name: of data set, label set and table; lower-case letters, digits and `_`.
        options, listed: as `options_of` returns them.
        base, novel: names of classes that are to be so; others are base if they have pixels, novel if labels alone.
        profile: name of one; by default that of before, else `own_maps` with a GPU, `embedded_own_maps` without.
        force: replace what was declared under this name.

    Returns:
        Declared.

    Raises:
        ExperimentError: whatever is wrong, in one line; then nothing was written.
    """
    declared = experiments.load()
    own.require_free(name, declared, force, ROWS)
    from pipeline.hardware import gpu_names  # torch, which a mistake above need not wait for

    before = declared.datasets.get(name, {})
    profile = profile or before.get("kind") == KIND and before["profile"] or (WITH_GPU if gpu_names() else WITHOUT)
    experiments.lookup(declared.profiles, profile, "profile")
    gathered = data.gather(options, listed)
    groups = grouped(gathered, base, novel)
    options = options | {"maps": options["maps"] | {"sha256": gathered.digest}, "unlabelled": list(gathered.unlabelled)}
    if "labels" in options:
        options |= {"labels": options["labels"] | {"sha256": digest(options["labels"]["path"])}}
    if gathered.colours:
        options |= {"colours": {each: classes.hexadecimal(colour) for each, colour in gathered.colours.items()}}
    entry = {
        "kind": KIND,
        "profile": profile,
        "label_set": name,
        "train": TRAIN,
        "validation": VALIDATION,
        **options,
    }
    if profile == WITH_GPU:
        entry |= scale(len(gathered.of(TRAIN)), len(gpu_names()))
    alone = {"without_map": "labels"} if any(not photo.map for photo in gathered.of(TRAIN)) else {}
    rows = {
        label: (f"{name}_{end}", {"method": "simformer", "knobs": KNOBS, "overrides": knobs | alone})
        for end, (label, knobs) in ROWS.items()
    }
    sides = {side: [each for each in gathered.labels.names if groups[each] == side] for side in ("base", "novel")}
    directions = {own.DIRECTION: {"base": "base", "novel": "novel"}}
    own.write(name, gathered.labels, sides, directions, entry, f"Label maps of {name}", rows)
    folders = Path(options["images"]), Path(options["maps"]["path"])
    return Declared(gathered, folders, groups, [run for run, _ in rows.values()], warnings(gathered, groups))


def scale(images, gpus):
    """Batch and length of a training with profile `own_maps`, as `pipeline.own.scale`."""
    batch = min(max(BATCH, PER_GPU * gpus), LARGEST_BATCH)
    return {"batch_size": batch, "iterations": round(max(PASSES * images, min(LEAST, MOST_PASSES * images)) / batch)}


def grouped(gathered, base=(), novel=()):
    """{class name: group}: `base` has pixels to train on, `novel` labels alone, `none` neither.

    Raises:
        ExperimentError: an unknown class or one on both sides; one without the pixels or labels that its side takes; no
            base or no novel class; no validation image.
    """
    names = gathered.labels.names
    for option, chosen in (("--base", base), ("--novel", novel)):
        for name in chosen:
            if name not in names:
                raise ExperimentError(f"{option} names the class {name!r}{strict.options(name, names)}")
    if both := [name for name in base if name in novel]:
        raise ExperimentError(f"{', '.join(both)}: in --base and in --novel; leave it in one of them")
    pixels, shown, labelled = gathered.counted(TRAIN)
    groups = {}
    for position, name in enumerate(names):
        seen = shown[position] + labelled[position]
        if name in base and not pixels[position]:
            raise ExperimentError(f"--base names {name!r}, which no training map shows; take it off --base, or map it")
        if name in novel and not seen:
            raise ExperimentError(
                f"--novel names {name!r}, which no training image shows: neither maps nor labels; give --labels with it"
            )
        hidden = name in novel or not pixels[position]
        groups[name] = "base" if not hidden else "novel" if seen else ABSENT
    if "base" not in groups.values():
        raise ExperimentError(
            "no class has pixels to train on; take classes off --novel, or look whether --classes and --unlabelled are "
            "those of the maps"
        )
    if "novel" not in groups.values():
        raise ExperimentError(
            "every class that images show has pixels, so there is nothing to learn from labels alone; give --labels "
            f"with new classes, or hide the pixels of some with --novel {strict.shown(names[-1])} (validation has them)"
        )
    if not gathered.of(VALIDATION):
        raise ExperimentError(
            "no image can be set apart for validation: each shows a class that few others show; give more maps"
        )
    return groups


def warnings(gathered, groups):
    """Sentences on what is right and perhaps not meant."""
    names, found = gathered.labels.names, list(gathered.notes)
    (_, shown, labelled), (val_pixels, *_) = gathered.counted(TRAIN), gathered.counted(VALIDATION)

    def some(condition):
        chosen = [name for position, name in enumerate(names) if condition(position, groups[name])]
        return ", ".join(chosen[:8]) + (f" and {len(chosen) - 8} more" if len(chosen) > 8 else "")

    sentences = {
        "neither pixels nor labels, so nothing is learned of it": some(lambda _, group: group == ABSENT),
        "no validation pixel, so no IoU": some(lambda at, group: group != ABSENT and not val_pixels[at]),
        "a single training image": some(lambda at, group: shown[at] + labelled[at] == 1),
        "labels of whole images say nothing of a class with pixels": some(
            lambda at, group: group == "base" and labelled[at] > 0
        ),
    }
    found += [f"{what}: {which}" for what, which in sentences.items() if which]
    novel = {position for position, name in enumerate(names) if groups[name] == "novel"}
    alone = [bool(novel & set(photo.labels)) for photo in gathered.of(TRAIN) if not photo.map]
    if any(alone):
        found.append(
            f"{sum(alone)} training images have labels and no map: they teach classes, and no pixel of them counts"
        )
    if useless := alone.count(False):
        found.append(f"{useless} images have no map and no label of a novel class, so nothing is learned of them")
    return found


def told(found, most=60):
    """What training and validation images hold, a line a class, as Markdown, and notes."""
    gathered = found.gathered
    (pixels, shown, labelled), (_, val_shown, _) = gathered.counted(TRAIN), gathered.counted(VALIDATION)
    every = sum(photo.width * photo.height for photo in gathered.of(TRAIN) if photo.map)
    rows = [
        {
            "Class": category.name,
            "Value": category.id,
            "Group": found.groups[category.name],
            "Train pixels": f"{100 * pixels[position] / every:.1f} %",
            "Images": shown[position],
            "by label": labelled[position],
            "Val images": val_shown[position],
        }
        for position, category in enumerate(gathered.labels.categories)
    ]
    frequent = sorted(rows, key=lambda row: -row["Images"] - row["by label"])[:most]
    shown_rows = sorted(frequent, key=lambda row: ("base", "novel", ABSENT).index(row["Group"]))
    text = pd.DataFrame(shown_rows).to_markdown(index=False, disable_numparse=True)
    left = f"\nand {len(rows) - most} classes with fewer images" if len(rows) > most else ""
    sides = "as the folders say" if gathered.by_folder else "set apart by a seed"
    images = f"{len(gathered.of(TRAIN))} training and {len(gathered.of(VALIDATION))} validation images, {sides}"
    none = ", ".join(map(str, gathered.unlabelled)) or "none"
    layout = f"layout of maps: {gathered.layout}, unlabelled: {none}"
    notes = "".join(f"\nnote: {each}" for each in found.warnings)
    return f"{images}, {len(rows)} classes; {layout}\n\n{text}{left}\n{notes}"
