"""COCO 2017, a mirror or a subset of it: from archives that an entry declares, or a folder already there."""

import contextlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from pipeline.datasets.archives import declared_archives, obtain, unpack
from pipeline.datasets.images import is_whole
from pipeline.errors import ExperimentError

WANTED = re.compile(r"(train|val)2017/[^/]+\.(jpg|png)|annotations/instances_(train|val)2017\.json")
FOLDERS = ("train2017", "val2017", "annotations")
ENTRY_KEYS = ("base_url", "archives", "root_env", "keep_archives", "train_images")
READERS = 8  # threads; checking a folder on a network disk is latency, not computing


def fill(name, entry, root):
    """Make `root` hold `train2017/`, `val2017/` and `annotations/`.

    If the environment variable that the entry names as `root_env` is set, its folder is checked and linked,
    not copied. Otherwise the archives are downloaded to `root/../downloads`, verified and unpacked; what an
    earlier run finished is not done again, and nothing is done if all of it is there.

    Args:
        name: of the dataset.
        entry: `base_url`, `archives` (see `archives.declared_archives`); optionally `root_env`, `keep_archives`
            (`false` deletes a download once it is unpacked), and `train_images`, which only stages.plan reads.
        root: folder, on a disk with room for the data.

    Returns:
        What identifies the data, for the manifest.

    Raises:
        ExperimentError: bad entry, and whatever `archives` raises.
    """
    if unknown := [key for key in entry if key not in ENTRY_KEYS]:
        raise ExperimentError(
            f"experiments.yaml: datasets.{name}: unknown key {', '.join(unknown)}; "
            f"valid: {', '.join(ENTRY_KEYS)}"
        )
    archives = declared_archives(name, entry)
    identity = {"archives": {a.name: {"bytes": a.size, **a.checksums} for a in archives}}
    marker = root / "archives.json"
    done = json.loads(marker.read_text()) if marker.exists() else {}
    if done == identity["archives"]:
        return identity
    if any(facts != identity["archives"].get(archive) for archive, facts in done.items()):
        shutil.rmtree(root)  # unpacked from other archives
        done = {}
    if (variable := entry.get("root_env")) and os.environ.get(variable):
        _link(variable, Path(os.environ[variable]).expanduser().resolve(), root)
        return identity
    _clear(root)
    _write_marker(marker, done)  # before the first file: what is here, we put here
    pending = [archive for archive in archives if archive.name not in done]
    with contextlib.closing(obtain(entry["base_url"], pending, root.parent / "downloads")) as complete:
        for archive, path in complete:
            unpack(path, WANTED, root)
            done[archive.name] = identity["archives"][archive.name]
            _write_marker(marker, done)
            if not entry.get("keep_archives", True) and path.is_relative_to(root.parent / "downloads"):
                path.unlink()
    return identity


def _write_marker(marker, done):
    marker.parent.mkdir(parents=True, exist_ok=True)
    part = marker.with_suffix(".part")
    part.write_text(json.dumps(done))
    os.replace(part, marker)


def _clear(root):
    """Remove links of an earlier run; refuse to touch files that stage download did not put here."""
    if (root / "archives.json").exists():
        return
    for name in FOLDERS:
        if (root / name).is_symlink():
            (root / name).unlink()
    if root.exists() and any(root.iterdir()):
        raise ExperimentError(
            f"{root} holds files that stage download did not put there; move them away; "
            "to use them in place set the variable that the entry names as root_env to their new folder"
        )


def _link(variable, folder, root):
    """Let `root` point into a COCO folder, after a look at what is there."""
    for name in FOLDERS:
        if not (folder / name).is_dir():
            raise ExperimentError(
                f"{variable}={folder}: has no folder {name}/; it needs {', '.join(f'{f}/' for f in FOLDERS)} "
                f"(unset {variable} to download instead)"
            )
    if folder == root.resolve():
        return
    if (root / "archives.json").exists():
        shutil.rmtree(root)  # an unfinished download
    _clear(root)
    root.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        (root / name).symlink_to(folder / name, target_is_directory=True)


def check_whole(folder, names):
    """Raise ExperimentError if one of the images `names` in `folder` is cut short."""
    with ThreadPoolExecutor(READERS) as readers:
        states = readers.map(is_whole, (folder / name for name in names))
        for name, whole in zip(
            names, tqdm(states, total=len(names), desc=f"checking {folder.name}"), strict=True
        ):
            if not whole:
                raise ExperimentError(
                    f"image {folder.resolve() / name} is truncated or not an image; restore it"
                )
