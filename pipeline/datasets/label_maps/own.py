"""A user's own label maps: a folder of images, which stays where it is, one of PNG maps, and image-level labels.

A map belongs to the image of its name, whatever folders and endings tools add. What its values mean is said by the
list of classes: an index (grey or palette PNG), or a colour. An image may have a map, image-level labels, or both; one
with labels alone is trained with, and no pixel of it is known. Nothing but the packs of `describe` is written.
"""

import hashlib
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from pipeline.datasets import coco, contents
from pipeline.datasets.contents import Filled
from pipeline.datasets.images import BROKEN, SUFFIXES, files_below, is_whole
from pipeline.datasets.label_maps import IGNORE, checking, classes, image_labels
from pipeline.datasets.label_maps.classes import Listed, hexadecimal
from pipeline.datasets.own import TRAIN, VALIDATION, digest
from pipeline.declaration.label_sets import Category, LabelSet
from pipeline.errors import ExperimentError

READERS = 4  # threads that decode maps
KEPT = 2  # training images that a class keeps, if there are as many
UNKNOWN = -1
# What tools put behind the name of an image to name its map.
IDS, TRAIN_IDS = "_labelIds", "_labelTrainIds"
ENDINGS = tuple(f"_{gt}{ids}" for gt in ("gtFine", "gtCoarse") for ids in (IDS, TRAIN_IDS)) + (
    *(IDS, TRAIN_IDS, "_mask", "_label", "_labels", "_gt", "_seg", "_segmentation", "_L"),
)
NO_MAPS = ("_color", "_instanceIds", "_instanceTrainIds")  # beside Cityscapes' maps
# Values of Cityscapes' ids that its benchmark leaves out, and that of its licence plates.
VOID = (*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 255)
FOLDERS = {TRAIN: ("train", "training"), VALIDATION: ("val", "validation")}  # that tell the side of an image
TESTS = ("test", "testing")  # of images that are for neither
SHOWN = 6  # values that a line lists


class Photo(NamedTuple):
    """An image of the user.

    Attributes:
        name, map: paths below the folders of images and maps; the latter None without a map.
        width, height: as it is stored.
        pixels: {position of a class: pixels}.
        labels: positions of the classes that it is said to show.
        side: `train`, `val`.
    """

    name: str
    map: str | None
    width: int
    height: int
    pixels: dict
    labels: tuple
    side: str = TRAIN


class Gathered(NamedTuple):
    """What the files hold, checked.

    Attributes:
        labels: LabelSet, the id of a class is its value in maps.
        photos: list of `Photo` with a map or labels, by name.
        layout: `cityscapes`, `ade`, `plain`.
        unlabelled: values and colours that stand for no class.
        colours: {class name: (r, g, b)} as listed.
        coding: `Coding`.
        by_folder: whether folders tell training from validation images.
        digest: of all maps.
        notes: sentences.
    """

    labels: LabelSet
    photos: list
    layout: str
    unlabelled: tuple
    colours: dict
    coding: object
    by_folder: bool
    digest: str
    notes: list

    def of(self, side):
        """The images of a side."""
        return [photo for photo in self.photos if photo.side == side]

    def counted(self, side):
        """Three counters by position of a class: pixels, images whose map shows it, images that are said to show it."""
        pixels, shown, labelled = Counter(), Counter(), Counter()
        for photo in self.of(side):
            pixels.update(photo.pixels)
            shown.update(photo.pixels.keys())
            labelled.update(set(photo.labels) - photo.pixels.keys())
        return pixels, shown, labelled


class Coding:
    """What the values and the colours of maps mean.

    Args:
        labels: LabelSet; ids are values.
        colours: {class name: (r, g, b)}.
        unlabelled: values, and colours as `#rrggbb`, of no class.
    """

    def __init__(self, labels, colours, unlabelled):
        self.unlabelled = unlabelled
        none = [value for value in unlabelled if isinstance(value, int)]
        self.table = np.full(max([*none, *(category.id for category in labels.categories)]) + 2, UNKNOWN, np.int16)
        for position, category in enumerate(labels.categories):
            self.table[category.id] = position
        self.table[none] = IGNORE
        codes = {_code(colours[name]): position for position, name in enumerate(labels.names) if name in colours}
        self.has_colours = bool(codes)
        codes |= {_code(classes.colour_of(each)): IGNORE for each in unlabelled if isinstance(each, str)}
        self.codes = np.array(sorted(codes), np.int64)
        self.positions = np.array([codes[code] for code in sorted(codes)], np.int16)

    def read(self, path):
        """The map of a file, uint8 [H, W], and a digest of the file's bytes.

        Raises:
            ExperimentError: no whole PNG, colours without a list of them, or what is neither a class nor unlabelled.
        """
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as opened:
                palette = opened.getpalette("RGB") if opened.mode == "P" else None
                stored = np.asarray(
                    opened if opened.mode in "1LPI" or opened.mode[:2] == "I;" else opened.convert("RGB")
                )
        except BROKEN as error:
            raise ExperimentError(f"{path}: no whole PNG ({error or type(error).__name__}); export it again") from None
        return self._positions(path, stored, palette).astype(np.uint8), hashlib.sha256(content).hexdigest()

    def _positions(self, path, stored, palette):
        if stored.ndim == 3 and not self.has_colours:
            if (stored != stored[..., :1]).any():
                raise ExperimentError(
                    f"{path}: a PNG of colours, and the list of classes has none; list {classes.EXAMPLE}"
                )
            stored = stored[..., 0]  # gray, stored as colour
        if stored.ndim == 2:
            found = self.table[np.minimum(stored.astype(np.int64), len(self.table) - 1)]
            entries = None if palette is None else np.array(palette, np.uint8).reshape(-1, 3)
            if entries is not None and self.has_colours:
                self._require_agreement(path, np.unique(stored), entries)
            outside = entries is not None and int(stored.max(initial=0)) >= len(entries)
            if entries is None or not self.has_colours or outside or (found != UNKNOWN).all():
                self._require(path, found, stored, str, "value")
                return found
            stored = entries[stored]
        codes = _codes(stored)
        found = self._of_codes(codes)
        self._require(path, found, codes, lambda code: f"'#{code:06x}'", "colour")
        return found

    def _of_codes(self, codes):
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        return np.where(self.codes[places] == codes, self.positions[places], UNKNOWN)

    def _require_agreement(self, path, values, entries):
        """Refuse a palette image whose indices are classes and whose colours are others: tools order palettes anew."""
        values = values[values < len(entries)].astype(np.int64)
        by_value = self.table[np.minimum(values, len(self.table) - 1)]
        by_colour = self._of_codes(_codes(entries[values]))
        if (differ := (by_value != UNKNOWN) & (by_colour != UNKNOWN) & (by_value != by_colour)).any():
            at = np.flatnonzero(differ)[0]
            colour = f"#{_codes(entries[values])[at]:06x}"
            raise ExperimentError(
                f"{path}: a palette whose index {values[at]} is one class of --classes and its colour {colour} another "
                "one; take the colours out of --classes to read indices, or save the map as RGB to read colours"
            )

    def _require(self, path, found, stored, text, what):
        if (unknown := found == UNKNOWN).any():
            values = list(map(text, np.unique(stored[unknown]).tolist()))
            none = " ".join([*map(_typed, self.unlabelled), *values[:SHOWN]])
            raise ExperimentError(
                f"{path}: {unknown.sum()} pixels have the {what} {', '.join(values[:SHOWN])}"
                f"{f' or {len(values) - SHOWN} others' if len(values) > SHOWN else ''}, which the list of classes does "
                f"not have; add it to the list of --classes, or where it stands for no class say --unlabelled {none}"
            )


def _typed(value):
    return f"'{value}'" if isinstance(value, str) else str(value)


def _codes(colours):
    """Numbers of colours [..., 3], as `_code`."""
    return (colours.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(-1)


def _code(colour):
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def gather(options, listed):
    """Read, check and part a user's files.

    Args:
        options: of the entry: `images`, `maps` ({path}), and optionally `labels` ({path}), `unlabelled`, `map_ending`,
            `val_fraction` and `seed`; without the latter two, folders tell the sides if they can.
        listed: list of `classes.Listed`.

    Returns:
        Gathered.

    Raises:
        ExperimentError: one line on the first thing that is wrong, with the user's file.
    """
    folders = {
        what: _folder(what, path) for what, path in (("images", options["images"]), ("maps", options["maps"]["path"]))
    }
    maps, images = _files(folders["images"], folders["maps"], options.get("map_ending"))
    matched = _matched(images, maps, folders, options.get("map_ending"))
    layout = _layout(folders["maps"], matched.values())
    given = options.get("unlabelled")
    listed = classes.valued(listed, 1 if (0 in given if given is not None else layout == "ade") else 0)
    unlabelled, notes = _unlabelled(given, layout, matched.values(), listed), []
    kept = [each for each in listed if not _stands_for_none(each, unlabelled, given, layout)]
    if dropped := [each.name for each in listed if each not in kept]:
        notes.append(f"listed with an unlabelled value, so no class: {', '.join(dropped)}")
    if not kept:
        raise ExperimentError("every listed class has an unlabelled value; take values of classes off --unlabelled")
    labels = label_set(kept)
    colours = {each.name: each.colour for each in kept if each.colour}
    coding = Coding(labels, colours, unlabelled)
    said = image_labels.read(options["labels"]["path"], images, labels.names) if options.get("labels") else {}
    photos, found = _read(folders, images, matched, coding, said, labels)
    if unmatched := [image for image in images if image not in matched and not said.get(image)]:
        notes.append(f"{len(unmatched)} images have neither map nor labels and are left out, such as {unmatched[0]}")
    if unused := sorted(set(maps) - set(matched.values())):
        notes.append(f"{len(unused)} maps have no image of their name and are left out, such as {unused[0]}")
    by_folder = "val_fraction" not in options
    photos = _by_folder(photos, notes) if by_folder else parted(photos, options["val_fraction"], options["seed"])
    return Gathered(labels, photos, layout, unlabelled, colours, coding, by_folder, found, notes)


def label_set(listed):
    """The classes as a label set without directions, in the order of their values."""
    categories = tuple(Category(each.value, each.name, "") for each in sorted(listed, key=lambda each: each.value))
    names = tuple(category.name for category in categories)
    return LabelSet("own", "the list of classes", categories, {"all": names, "none": ()}, {})


def _folder(what, path):
    folder = Path(path)
    if not folder.is_dir():
        state = "is no folder" if folder.exists() else "no such folder"
        raise ExperimentError(f"--{what} {folder}: {state}; name the folder that your {what} are in")
    return folder


def _files(images, maps, ending):
    """{path of a map: image name that it is called after}, and paths of images; below their folders."""
    known = sorted(ENDINGS, key=len, reverse=True)
    known = (ending.removesuffix(".png"),) if ending and ending != ".png" else known
    found = [name for name in files_below(maps) if name.lower().endswith(".png")]
    bases = {name: _base(name, known) for name in found if not PurePosixPath(name).stem.endswith(NO_MAPS)}
    if ending == ".png":  # of maps that are called as their image, and others beside them
        bases = {name: base for name, base in bases.items() if base == str(PurePosixPath(name).with_suffix(""))}
    elif ending:
        bases = {name: base for name, base in bases.items() if PurePosixPath(name).stem.endswith(known[0])}
    photos = [name for name in files_below(images) if PurePosixPath(name).suffix.lower().removeprefix(".") in SUFFIXES]
    if maps.resolve() == images.resolve():  # a map has an ending of its own, or an image beside it of another format
        others = {str(PurePosixPath(name).with_suffix("")) for name in photos if not name.lower().endswith(".png")}
        bases = {
            name: base
            for name, base in bases.items()
            if base != str(PurePosixPath(name).with_suffix("")) or base in others
        }
        photos = [name for name in photos if name not in bases and not PurePosixPath(name).stem.endswith(NO_MAPS)]
    elif maps.resolve().is_relative_to(images.resolve()):
        inside = f"{maps.resolve().relative_to(images.resolve()).as_posix()}/"
        photos = [name for name in photos if not name.startswith(inside)]
    if not photos:
        raise ExperimentError(
            f"--images {images}: no image found (endings: {', '.join(SUFFIXES)}); name the folder of your images"
        )
    if not bases:
        others = Counter(PurePosixPath(name).suffix or "no ending" for name in files_below(maps)).most_common(1)
        state = f"no PNG{f' whose name ends with {ending}' if ending else ''}"
        state += f", but files of the type {others[0][0]}" if others and not found else ""
        raise ExperimentError(
            f"--maps {maps}: {state}; export label maps as PNG, whose values survive, and name their folder"
        )
    return bases, photos


def _base(name, endings):
    pure = PurePosixPath(name).with_suffix("")
    ending = next((each for each in endings if pure.name.endswith(each) and pure.name != each), "")
    return str(pure.with_name(pure.name.removesuffix(ending)))


def _matched(images, maps, folders, ending):
    """{image: its map}: of the same path, else of the same name where it is that of one image and of one map."""
    by_path, by_name, named = {}, {}, Counter()
    for name, base in maps.items():
        by_path.setdefault(base, []).append(name)
        by_name.setdefault(PurePosixPath(base).name, []).append(name)
    called = {image: str(PurePosixPath(image).with_suffix("")).removesuffix(image_labels.PHOTO) for image in images}
    named.update(PurePosixPath(base).name for base in called.values())
    matched = {}
    for image, base in called.items():
        short = PurePosixPath(base).name
        of_name = by_name.get(short, ()) if named[short] == 1 else ()
        found = by_path.get(base) or (of_name if len({maps[each] for each in of_name}) == 1 else ())
        if len(found) > 1:
            endings = sorted(PurePosixPath(each).name.removeprefix(short) for each in found)
            raise ExperimentError(
                f"{folders['maps']}: {image} has {len(found)} maps, {short}{' and '.join(endings[:2])}; choose one: "
                f"--map-ending {endings[0]}"
            )
        if found:
            matched[image] = found[0]
    if not matched:
        raise ExperimentError(
            f"{folders['maps']}: no map is called after an image, such as {next(iter(called.values()))}.png for "
            f"{images[0]}; give maps the names of their images, or name what stands behind these: --map-ending ENDING"
        )
    return matched


def _layout(folder, maps):
    if all(PurePosixPath(name).stem.endswith((IDS, TRAIN_IDS)) for name in maps):
        return "cityscapes"
    above = {PurePosixPath(name).parts[0] for name in maps} if folder.name == "annotations" else {folder.name}
    inside = folder.name == "annotations" or folder.parent.name == "annotations"
    return "ade" if inside and above <= {"training", "validation"} else "plain"


def _unlabelled(given, layout, maps, listed):
    """Values of no class: as given, else as the layout says, 255 where it says nothing."""
    if given is not None:
        return tuple(given)
    values = {each.value for each in listed}
    if layout == "ade":
        return (0,)
    if layout == "cityscapes" and next(iter(maps)).endswith(f"{IDS}.png"):
        return tuple(value for value in VOID if value not in values)
    return tuple({IGNORE} - values)


def _stands_for_none(each, unlabelled, given, layout):
    meant = given is not None or layout == "ade"
    return meant and (each.value in unlabelled or each.colour and hexadecimal(each.colour) in unlabelled)


def _read(folders, images, matched, coding, said, labels):
    """Look at all images that have a map or labels, and at their maps: list of `Photo`, digest of the maps."""
    used = [image for image in images if image in matched or said.get(image)]

    def one(image):
        size = _size(folders["images"] / image)
        pixels, state = {}, ""
        if image in matched:
            path = folders["maps"] / matched[image]
            found, state = coding.read(path)
            if found.shape[::-1] != size:
                raise ExperimentError(
                    f"{path}: {found.shape[1]} x {found.shape[0]} pixels, its image {image} {size[0]} x {size[1]} as "
                    "it is stored (an EXIF orientation is ignored); export both at the same size"
                )
            counts = np.bincount(found.ravel(), minlength=IGNORE + 1)[: len(labels)]
            pixels = {int(position): int(counts[position]) for position in np.flatnonzero(counts)}
        positions = tuple(sorted(labels.names.index(name) for name in said.get(image, ())))
        return Photo(image, matched.get(image), *size, pixels, positions), f"{matched.get(image)} {state}\n"

    with ThreadPoolExecutor(READERS) as pool:
        bar = tqdm(pool.map(one, used), total=len(used), desc="look at images and maps", unit="image", mininterval=5)
        try:
            photos, states = zip(*bar, strict=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return list(photos), hashlib.sha256("".join(sorted(states)).encode()).hexdigest()


def _size(path):
    """Width and height of an image as it is stored. Raises ExperimentError if it cannot be read."""
    try:
        with Image.open(path) as image:
            size = image.size
        if is_whole(path):
            return size
    except BROKEN:
        pass
    raise ExperimentError(f"image {path} is truncated or not an image; replace the file, or take it out of the folder")


def _by_folder(photos, notes):
    """Sides as the first folders say; images with a map in other folders, such as `test`, are left out with a note.

    Those with labels alone train wherever they are, but in folders to validate or test with, where they are left out.
    """
    sides = {name: side for side, names in FOLDERS.items() for name in names}
    found = [(photo, PurePosixPath(photo.name).parts[0]) for photo in photos]
    if others := [photo.name for photo, folder in found if photo.map and folder not in sides]:
        notes.append(f"{len(others)} images are in no folder train or val and are left out, such as {others[0]}")
    apart = (*FOLDERS[VALIDATION], *TESTS)
    if others := [photo.name for photo, folder in found if not photo.map and folder in apart]:
        notes.append(
            f"{len(others)} images with labels alone are in a folder of images to validate or test with and are left "
            f"out, such as {others[0]}"
        )
    kept = [(photo, folder) for photo, folder in found if folder in sides or not photo.map]
    return [
        photo._replace(side=sides[folder] if photo.map else TRAIN)
        for photo, folder in kept
        if photo.map or folder not in apart
    ]


def folders_tell(images):
    """Whether the first folders of images are `train` and `val`, or `training` and `validation`."""
    first = {path.name for path in Path(images).iterdir() if path.is_dir()} if Path(images).is_dir() else set()
    return all(first & set(names) for names in FOLDERS.values())


def parted(photos, fraction, seed):
    """Set images with maps apart for validation: the same list with sides.

    They go in the order of a hash of seed and name. One whose absence would leave a class with fewer than `KEPT`
    training images that show it, or fewer than there are, stays.

    Args:
        photos: list of `Photo`.
        fraction: of the images with a map, above 0 and below 1.
        seed: a number.
    """
    shows = {photo.name: photo.pixels.keys() | set(photo.labels) for photo in photos}
    counts = Counter(position for photo in photos for position in shows[photo.name])
    least = {position: min(KEPT, count) for position, count in counts.items()}
    masks = Counter(position for photo in photos for position in photo.pixels)
    least_masks = {position: min(KEPT, count) for position, count in masks.items()}
    mapped = [photo for photo in photos if photo.map]
    wanted, apart = max(1, int(fraction * len(mapped) + 0.5)), set()
    for photo in sorted(mapped, key=lambda photo: hashlib.sha256(f"{seed} {photo.name}".encode()).digest()):
        if len(apart) == wanted:
            break
        spared = all(counts[each] > least[each] for each in shows[photo.name])
        if photo.pixels and spared and all(masks[each] > least_masks[each] for each in photo.pixels):
            apart.add(photo.name)
            counts.subtract(shows[photo.name])
            masks.subtract(photo.pixels.keys())
    return [photo._replace(side=VALIDATION if photo.name in apart else TRAIN) for photo in photos]


def identify(source):
    """What identifies the data, for the manifest: not where the files are, but what they hold."""
    options = source.options
    kept = ("val_fraction", "seed", "unlabelled", "colours", "map_ending")
    files = {key: options[key]["sha256"] for key in ("maps", "labels") if key in options}
    values = {category.name: category.id for category in source.label_set.categories}
    return {"files": files, "classes": values} | {key: options[key] for key in kept if key in options}


def fill(source, root, _downloads, _check):
    """Make links to the images beside `root`. See `contents.Filled`.

    Raises:
        ExperimentError: the file of labels is another than when it was declared.
    """
    if "labels" in source.options:
        _require_same(source, source.options["labels"]["path"], digest(source.options["labels"]["path"]), "labels")
    coco.refuse_others_files(root, coco.folders_of(source))
    staging = contents.beside(root)
    contents.discard(staging)
    staging.mkdir(parents=True)
    for subset in source.subsets:
        (staging / subset).symlink_to(Path(source.options["images"]).resolve(), target_is_directory=True)
    identity = identify(source)
    contents.write_json(staging / contents.MARKERS["own_maps"], identity)
    return Filled(identity, staging, lambda: contents.swap(staging, root))


def _require_same(source, path, found, key):
    if found != source.options[key]["sha256"]:
        raise ExperimentError(
            f"{path}: was changed since {source.name} was declared; run `python -m commands.own {source.name} --force`"
        )


def describe(folder, source, outputs):
    """Check images and maps, and write an index and a pack of maps for each subset, as `checking.describe`.

    Images with labels alone have a map without any class and the entry `unmapped`; those with labels `labels`.

    Raises:
        ExperimentError: maps are others than when they were declared, or whatever `gather` raises.
    """
    options = source.options
    colours = {name: classes.colour_of(colour) for name, colour in options.get("colours", {}).items()}
    listed = [Listed(each.name, each.id, colours.get(each.name)) for each in source.label_set.categories]
    gathered = gather(options, listed)
    _require_same(source, options["maps"]["path"], gathered.digest, "maps")

    def maps(side):
        for photo in gathered.of(side):
            found = np.full((photo.height, photo.width), IGNORE, np.uint8)
            if photo.map:
                found, _ = gathered.coding.read(Path(options["maps"]["path"]) / photo.map)
            facts = {"labels": list(photo.labels)} if photo.labels else {}
            size = (Path(options["images"]) / photo.name).stat().st_size
            yield photo.name, found, size, facts if photo.map else facts | {"unmapped": True}

    return {
        subset: checking.write(subset, maps(side), len(gathered.of(side)), source, outputs)
        for side, subset in zip((TRAIN, VALIDATION), source.subsets, strict=True)
    }
