"""COCO-Stuff-10K and ADE20K from their official archives: which member is what, which images are left out.

An archive's images go to `<subset>/`, its label maps, as they are stored, to `annotations/<subset>/`. Numbers and
lists: Caesar, Uijlings and Ferrari, CVPR 2018 (COCO-Stuff), Zhou et al., CVPR 2017 (ADE20K), and SimFormer's data
loaders.
"""

import hashlib
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from pipeline.datasets import coco, contents
from pipeline.datasets.archives import declared_archives, sized, unpack
from pipeline.datasets.contents import Filled
from pipeline.errors import ExperimentError

# Training images that SimFormer's loaders leave out.
DROPPED_STUFF = frozenset(
    f"COCO_train2014_{number:012d}" for number in (16680, 230639, 382127, 429995, 314646, 3518, 58075)
)
DROPPED_ADE = frozenset(
    f"ADE_train_{number:08d}"
    for number in (
        *(5149, 5150, 5152, 5333, 5905, 6510, 13298, 14634, 14636, 14884, 15320, 15330, 15928),
        *(19743, 19385, 19873),
    )
)


class Layout(NamedTuple):
    """What the members of an archive are called.

    Attributes:
        wanted: pattern of the members that are looked at; `kind` is `images`, `annotations` or `imageLists`, `list` the
            name of a list or folder of the source, `stem` that of an image.
        expected: the same in words.
        lists: how the source calls its training and its validation images.
        dropped: stems of images that are left out.
    """

    wanted: re.Pattern
    expected: str
    lists: tuple[str, str]
    dropped: frozenset


LAYOUTS = {
    "coco_stuff_10k": Layout(
        re.compile(
            r"(?:[^/]+/)?(?:(?P<kind>images)/(?P<stem>[^/]+)\.jpg|annotations/[^/]+\.mat|imageLists/(?:train|test)\.txt)"
        ),
        "images/*.jpg, annotations/*.mat and imageLists/train.txt, test.txt",
        ("train", "test"),
        DROPPED_STUFF,
    ),
    "ade20k": Layout(
        re.compile(
            r"(?:[^/]+/)?(?:images/(?:training|validation)/[^/]+\.jpg|annotations/(?:training|validation)/[^/]+\.png)"
        ),
        "images/training/*.jpg, annotations/training/*.png, and the same of validation",
        ("training", "validation"),
        DROPPED_ADE,
    ),
}


def identify(source):
    """What identifies declared data, for the manifest."""
    return coco.identify(source) | {"layout": source.options["layout"]}


def fill(source, root, downloads, _check):
    """Download, verify and unpack what is missing, see `coco.fill`.

    Where nobody has published size or checksum of an archive, neither is compared; what is unpacked is, member by
    member with the archive's CRC, and image by image afterwards.

    Args:
        source: contents.Source with the options `layout` (key of `LAYOUTS`), `base_url`, `archives`, and optionally
            `keep_archives`, `list_sha256` ({subset: digest of its list of names}).
        root: folder, on a disk with room for the data.
        downloads: folder for archives; one that was brought there by hand is used.

    Raises:
        ExperimentError: whatever `archives` raises, a list other than the declared one, a listed image without file.
    """
    options, identity = source.options, identify(source)
    coco.refuse_others_files(root, coco.folders_of(source))
    in_place = contents.read_json(root / contents.MARKERS["label_maps"]) == identity["archives"]
    tree = root if in_place else contents.beside(root)
    if not in_place:  # of an archive that was refused, maybe, and which another one has taken the place of
        contents.discard(tree)
    held = contents.recorded(tree)
    whole = [name for name, files in held.items() if not contents.differing(tree, files)]
    if not (in_place and set(whole) == set(identity["archives"])):
        archives = [sized(options["base_url"], archive, downloads) for archive in declared_archives(options)]
        coco.unpack_all(source, archives, identity["archives"], tree, downloads, _unpacked)
    return Filled(identity, tree, lambda: None if in_place else contents.swap(tree, root))


def _unpacked(path, source, tree):
    layout = LAYOUTS[source.options["layout"]]
    return unpack(
        path, layout.wanted, tree, layout.expected, lambda archive, names: _places(archive, names, source, path)
    )


def _places(archive, names, source, path):
    """Where members of an archive go: {name: path}."""
    layout = LAYOUTS[source.options["layout"]]
    lists = (_by_lists if source.options["layout"] == "coco_stuff_10k" else _by_folders)(archive, names, source, path)
    files = {}
    for name in names:
        member = PurePosixPath(name)
        kind = next(part for part in member.parts if part in ("images", "annotations", "imageLists"))
        files[kind, member.stem] = member
    places = {}
    for subset, stems in lists.items():
        for stem in stems:
            if stem in layout.dropped:
                continue
            for kind, folder in (("images", subset), ("annotations", f"annotations/{subset}")):
                if (member := files.get((kind, stem))) is None:
                    raise ExperimentError(
                        f"{path}: lists {stem} for {subset} and has no file of it in {kind}/; bring an official archive"
                    )
                places[str(member)] = f"{folder}/{member.name}"
    return places


def _by_lists(archive, names, source, path):
    """{subset: stems} by the lists of COCO-Stuff-10K."""
    lists, layout = {}, LAYOUTS[source.options["layout"]]
    for subset, title in zip(source.subsets, layout.lists, strict=True):
        member = next((name for name in names if name.endswith(f"imageLists/{title}.txt")), None)
        if member is None:
            raise ExperimentError(f"{path}: has no imageLists/{title}.txt; bring an official archive")
        lists[subset] = archive.read(member).decode("ascii", "replace").split()
        due = source.options.get("list_sha256", {}).get(subset)
        if due and list_digest(lists[subset]) != due:
            raise ExperimentError(
                f"{path}: {member} is not the official list ({len(lists[subset])} names; datasets.{source.name}."
                f"list_sha256.{subset} in pipeline/experiments/datasets.yaml); bring an official archive"
            )
    if both := sorted(set(lists[source.subsets[0]]) & set(lists[source.subsets[1]])):
        raise ExperimentError(f"{path}: {both[0]} is listed for training and for validation; bring an official archive")
    return lists


def list_digest(names):
    """Hex SHA-256 of a list of names, whatever their order."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest()


def _by_folders(archive, names, source, path):
    """{subset: stems} by the folders of ADE20K."""
    titles = dict(zip(LAYOUTS[source.options["layout"]].lists, source.subsets, strict=True))
    lists = {subset: [] for subset in source.subsets}
    for name in names:
        member = PurePosixPath(name)
        if "images" in member.parts:
            lists[titles[member.parent.name]].append(member.stem)
    return lists
