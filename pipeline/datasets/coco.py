"""Data in COCO's layout, such as COCO 2017 or a subset of it: from archives, or a folder already there."""

import contextlib
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from pipeline.datasets import contents
from pipeline.datasets.archives import declared_archives, is_remote, obtain, unpack
from pipeline.datasets.contents import Filled
from pipeline.datasets.images import SUFFIXES, is_whole
from pipeline.errors import ExperimentError

logger = logging.getLogger(__name__)

MARKER = contents.MARKERS["coco"]  # {archive: {bytes, checksums}} of those that are unpacked
READERS = 8  # threads; checking a folder on a network disk is latency, not computing


def identify(source):
    """What identifies declared data, for the manifest."""
    return {"archives": {a.name: {"bytes": a.size, **a.checksums} for a in declared_archives(source.options)}}


def fill(source, root, downloads, check):
    """Have a folder for each subset, such as `train2017/`, and `annotations/`, for `root` or in it already.

    If the environment variable that the entry names as `root_env` is set, its folder is linked, not copied. Where
    that was done before and the variable is not set at all, the links stay. Otherwise the archives are downloaded,
    verified and unpacked: what an earlier run finished is not done again, files of it that are missing or differ from
    what the archives hold are brought back. Nothing in `root` is given up here; that is up to `Filled.install`.

    Args:
        source: contents.Source with the options `base_url`, `archives` (see `archives.declared_archives`);
            optionally `root_env`, `keep_archives` (`false` deletes a download once it is unpacked), and
            `train_images`, which only commands.plan reads.
        root: folder, on a disk with room for the data.
        downloads: folder for archives.
        check: called as `check(root, subset)`, raises ExperimentError if annotations or images are not fit for use.

    Raises:
        ExperimentError: whatever `archives` raises.
    """
    entry, folders = source.options, folders_of(source)
    identity, archives = identify(source), declared_archives(entry)
    done = contents.read_json(root / MARKER)
    variable, linked = entry.get("root_env"), _is_linked(root, folders)
    if variable and os.environ.get(variable):
        if done != identity["archives"]:
            return _link(source, Path(os.environ[variable]).expanduser().resolve(), root, identity)
        logger.warning(
            "%s is not used: the archives are unpacked in %s; move that folder away to link another one", variable, root
        )
    elif variable and linked and variable not in os.environ:
        return _keep_links(source, root, identity)
    refuse_others_files(root, folders)
    in_place = done == identity["archives"]  # else `root` is of other archives, or is not there
    tree = root if in_place else contents.beside(root)
    trusted = _without_record(tree, archives, downloads, source, check) if in_place else ()
    archives = [archive for archive in archives if archive.name not in trusted]
    unpack_all(source, archives, identity["archives"], tree, downloads, _unpacked)
    return Filled(identity, tree, lambda: None if in_place else contents.swap(tree, root))


def _without_record(tree, archives, downloads, source, check):
    """Names of archives not to fetch again although it is not recorded what they held.

    That is so where an earlier version unpacked and the archive was deleted; enough that what is there can be used.
    """
    recorded, remote = contents.recorded(tree), is_remote(source.options["base_url"])
    gone = [a.name for a in archives if remote and a.name not in recorded and not (downloads / a.name).exists()]
    try:
        for subset in source.subsets if gone else ():
            check(tree, subset)
    except ExperimentError as error:
        logger.warning("%s; fetching %s", error, ", ".join(gone))
        return ()
    return gone


def _unpacked(path, source, tree):
    return unpack(path, wanted(source), tree, expected(source))


def unpack_all(source, archives, facts, tree, downloads, unpacked):
    """Let a folder hold what the archives hold, and no archive's files that has changed since.

    Args:
        source: contents.Source.
        archives: what `declared_archives` gives, with sizes.
        facts: {name: what identifies an archive}, for the marker.
        tree: the folder.
        downloads: folder for archives.
        unpacked: (path of an archive, source, tree) -> what it holds, as `archives.unpack` does.
    """
    done = contents.read_json(tree / MARKER)
    if any(facts.get(archive) != state for archive, state in done.items()):
        contents.discard(tree)
        done = {}
    held = {archive: files for archive, files in contents.recorded(tree).items() if archive in done}
    lacking = {archive: contents.differing(tree, files) for archive, files in held.items()}
    for archive, paths in lacking.items():
        if paths:
            logger.warning(
                "%s: %d files are missing or not as in %s, such as %s: bringing them again",
                tree,
                len(paths),
                archive,
                paths[0],
            )
    pending = [archive for archive in archives if lacking.get(archive.name, True)]
    # What unpacking needs at once; where it is not known what an archive holds, `unpack` looks again.
    room = sum(
        sum(held[a.name][path][0] for path in lacking[a.name]) if a.name in held else a.size
        for a in pending
        if a.name in held or a.name not in done
    )
    contents.write_json(tree / MARKER, done)  # before the first file: what is here, we put here
    with contextlib.closing(obtain(source.options["base_url"], pending, downloads, room)) as complete:
        for archive, path in complete:
            files = unpacked(path, source, tree)
            for other, theirs in held.items():
                if other != archive.name and (twice := [p for p in files if theirs.get(p, files[p]) != files[p]]):
                    raise ExperimentError(
                        f"{twice[0]}: {other} and {archive.name} both hold it, with different content; "
                        "declare one of them only"
                    )
            held[archive.name], done[archive.name] = files, facts[archive.name]
            contents.record(tree, held)
            contents.write_json(tree / MARKER, done)
            if not source.options.get("keep_archives", True) and path.is_relative_to(downloads):
                path.unlink()


def folders_of(source):
    """Names of the folders that the data of a source lie in."""
    return (*source.subsets, "annotations")


def wanted(source):
    """Pattern of the members of an archive that are unpacked."""
    subsets = "|".join(map(re.escape, source.subsets))
    return re.compile(rf"({subsets})/.+\.(?i:{'|'.join(SUFFIXES)})|annotations/instances_({subsets})\.json", re.DOTALL)


def expected(source):
    """What `wanted` means, in words."""
    train, validation = source.subsets
    return (
        f"images below {train}/ or {validation}/, or annotations/instances_{train}.json and instances_{validation}.json"
    )


def _is_linked(root, folders):
    return not contents.managed(root) and any((root / name).is_symlink() for name in folders)


def refuse_others_files(root, folders):
    """Leave alone what stage download did not put there."""
    if contents.managed(root) or not root.exists():
        return
    if any(not (entry.is_symlink() and entry.name in folders) for entry in root.iterdir()):
        raise ExperimentError(
            f"{root} holds files that stage download did not put there; move them away; "
            "to use them in place set the variable that the entry names as root_env to their new folder"
        )


def _link(source, folder, root, identity):
    """Use a COCO folder in place; `root` points into it once it is checked."""
    folders, variable = folders_of(source), source.options["root_env"]
    for name in folders:
        if not (folder / name).is_dir():
            raise ExperimentError(
                f"{variable}={folder}: has no folder {name}/; it needs {', '.join(f'{f}/' for f in folders)} "
                f"(`{variable}= python -m stages.download {source.name}` fetches the archives instead)"
            )
    if folder == root.resolve():
        return Filled(identity, root, lambda: None)
    refuse_others_files(root, folders)
    for name in folders:
        for ours in (root, *contents.temporary(root)):
            if (folder / name).resolve().is_relative_to(ours.resolve()):
                raise ExperimentError(
                    f"{variable}={folder}: {name}/ leads into {ours}, which stage download may replace; move it out"
                )

    def install():
        if all((root / name).is_symlink() and Path(os.readlink(root / name)) == folder / name for name in folders):
            return
        links = contents.beside(root)
        contents.discard(links)
        links.mkdir(parents=True)
        for name in folders:
            (links / name).symlink_to(folder / name, target_is_directory=True)
        contents.swap(links, root)

    return Filled(identity, folder, install)


def _keep_links(source, root, identity):
    """Go on with a folder that an earlier run linked: another shell knows the variable."""
    folders, variable = folders_of(source), source.options["root_env"]
    fetch = f"`{variable}= python -m stages.download {source.name}` fetches the archives instead"
    for folder in folders:
        if not (root / folder).is_dir():
            target = os.readlink(root / folder) if (root / folder).is_symlink() else "nothing"
            raise ExperimentError(
                f"{root / folder} leads to {target}, where no folder is; mount or restore it, or set {variable} to "
                f"where the data are now; {fetch}"
            )
    logger.info(
        "%s is not set; going on with %s, which is linked; %s", variable, (root / folders[0]).resolve().parent, fetch
    )
    return Filled(identity, root, lambda: None)


def check_whole(folder, names, advice):
    """Raise ExperimentError, which says what to do, if one of the images `names` in `folder` is cut short."""
    with ThreadPoolExecutor(READERS) as readers:
        states = readers.map(is_whole, (folder / name for name in names))
        for name, whole in zip(names, tqdm(states, total=len(names), desc=f"checking {folder.name}"), strict=True):
            if not whole:
                raise ExperimentError(
                    f"image {folder.resolve() / name} is truncated or not an image that OpenCV reads; {advice}"
                )
