"""What a folder of images and annotations has to hold, byte for byte, and how another one takes its place.

Stage download leaves two files in a folder it filled: a marker, which says from what, and `contents.json`, with size
and CRC of every file. So it finds what was deleted, emptied or changed later, and brings back just that.
"""

import ctypes
import json
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from pipeline.artifacts.files import write_text
from pipeline.datasets.files import refusals_told, require_regular
from pipeline.declaration.label_sets import LabelSet

CONTENTS = "contents.json"  # {source: {path: [bytes, CRC-32]}}
# By kind of dataset.
MARKERS = {
    "coco": "archives.json",
    "generated": "spec.json",
    "own": "own.json",
    "own_maps": "own.json",
    "label_maps": "archives.json",
    "drawn_maps": "scenes.json",
}
READERS = 8  # threads; on a network disk this is latency, not computing
CHUNK = 1 << 20  # bytes
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


class Source(NamedTuple):
    """A dataset as it is declared."""

    name: str
    options: dict  # of its entry, those of its kind
    label_set: LabelSet
    subsets: tuple  # names of the folders of its training and of its validation images, such as `train2017`


class Filled(NamedTuple):
    """Data that are complete, and where they are."""

    identity: dict  # what identifies them, for the manifest
    folder: Path  # holds a folder for each subset and annotations/
    install: object  # function that makes them the dataset's, once they are checked


def read_json(path):
    """The object of a JSON file; an empty one where that is missing or damaged.

    Raises:
        ExperimentError: it is no regular file, or cannot be read.
    """
    require_regular(path)
    try:
        with refusals_told(path):
            content = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path, content):
    """Write an object to a file in one step."""
    write_text(path, json.dumps(content, sort_keys=True))


def managed(root):
    """Whether stage download put there what a folder holds."""
    return any((root / marker).exists() for marker in MARKERS.values())


def recorded(root):
    """What is recorded of a folder: {source: {path: [bytes, CRC-32]}}."""
    return read_json(root / CONTENTS)


def record(root, contents):
    write_json(root / CONTENTS, contents)


def found(root, paths):
    """Size and CRC of files below a folder.

    Args:
        root: folder.
        paths: relative to it.

    Returns:
        {path: [bytes, CRC-32]}, without those that are missing or no regular files.
    """
    with ThreadPoolExecutor(READERS) as readers:
        states = readers.map(lambda path: _state(root / path), paths)
        bar = tqdm(states, total=len(paths), desc=f"checking {root.name}", unit="file", mininterval=1)
        return {path: state for path, state in zip(paths, bar, strict=True) if state}


def differing(root, files):
    """The paths of `files`, {path: [bytes, CRC-32]}, that a folder does not hold like this."""
    present = found(root, list(files)) if root.exists() else {}
    return [path for path, state in files.items() if present.get(path) != list(state)]


def _state(path):
    if not path.is_file():
        return None
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
        return [file.tell(), crc]


def beside(root):
    """Where the successor of a folder is made."""
    return root.with_name(f"{root.name}.new")


def swap(new, root):
    """Let a complete folder take the place of another one, which is removed.

    Whoever reads `root` meanwhile finds the old or the new one, where the file system can exchange two names; where it
    cannot, `recover` mends what a kill leaves between two renames.
    """
    old = _old(root)
    discard(old)
    if not os.path.lexists(root):
        return os.rename(new, root)
    if not _exchange(new, root):
        os.rename(root, old)
        os.rename(new, root)
    discard(new)
    discard(old)


def recover(root):
    """Mend what a swap left that was killed."""
    if not os.path.lexists(root) and _old(root).exists():
        os.rename(_old(root), root)


def discard(folder):
    """Remove a folder of ours, if it is there; links in it are removed, not followed."""
    if folder.exists():
        shutil.rmtree(folder)


def tidy(root):
    """Remove what killed runs left beside a folder that is complete."""
    for folder in temporary(root):
        discard(folder)


def temporary(root):
    """Folders beside `root` that are ours to remove."""
    return beside(root), _old(root), unpacking(root), unpacking(beside(root))


def unpacking(root):
    """Where members of an archive are until all of them are whole."""
    return root.with_name(f"{root.name}.unpacking")


def _old(root):
    return root.with_name(f"{root.name}.old")


def _exchange(one, other):
    """Exchange two names at once. Returns whether that was possible."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0
