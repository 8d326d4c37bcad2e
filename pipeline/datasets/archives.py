"""Bring the archives of a dataset onto this machine and unpack them: resumable, verified before use, safe.

Nothing half-done carries a final name: downloads grow as `<archive>.part`, members are unpacked into a
temporary folder. Both are renamed only after size, checksums and CRCs agree.
"""

import hashlib
import logging
import os
import re
import shutil
import stat
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from pipeline.datasets.downloads import CHUNK, Stopped, Unreachable, download, progress
from pipeline.errors import ExperimentError

logger = logging.getLogger(__name__)

AT_ONCE = 3  # downloads
ALGORITHMS = ("sha256", "md5")


class Archive(NamedTuple):
    """One archive as a dataset entry declares it."""

    name: str  # path relative to the base URL
    size: int  # bytes
    checksums: dict  # algorithm -> hex digest


def declared_archives(dataset, entry):
    """Read `archives` of a dataset entry: `{relative url: {bytes:, md5: and/or sha256:}}`.

    Raises:
        ExperimentError: something is missing, a URL leaves the base, a digest is none.
    """
    where = f"experiments.yaml: datasets.{dataset}"
    if not isinstance(entry.get("base_url"), str):
        raise ExperimentError(f"{where}: base_url is missing; give an http(s):// or file:// URL or a folder")
    if not isinstance(entry.get("archives"), dict) or not entry["archives"]:
        raise ExperimentError(
            f"{where}: archives is missing; give {{relative url: {{bytes:, md5: and/or sha256:}}}}"
        )
    archives = []
    for name, facts in entry["archives"].items():
        if _unsafe(name):
            raise ExperimentError(
                f"{where}.archives: '{name}' leaves the base URL; give a plain relative path"
            )
        facts = facts or {}
        checksums = {key: str(facts[key]).lower() for key in ALGORITHMS if facts.get(key)}
        if not isinstance(facts.get("bytes"), int) or not checksums:
            raise ExperimentError(
                f"{where}.archives: '{name}' needs bytes and at least one of {', '.join(ALGORITHMS)}"
            )
        for algorithm, digest in checksums.items():
            if not re.fullmatch(f"[0-9a-f]{{{2 * hashlib.new(algorithm).digest_size}}}", digest):
                raise ExperimentError(
                    f"{where}.archives: '{name}': {algorithm} '{digest}' is not a hex digest"
                )
        archives.append(Archive(name, facts["bytes"], checksums))
    return archives


def obtain(base_url, archives, downloads):
    """Yield `(archive, path)` of verified archives as they become complete, downloading several at a time.

    One that fails does not stop the others: a long download is worth finishing. Closing the generator stops all.

    Args:
        base_url: `http://`, `https://` or `file://` URL, or a path; archives of local folders are used in
            place.
        archives: what to get, as `declared_archives` gives it.
        downloads: folder for downloads; a finished or partial file there is used.

    Raises:
        ExperimentError: before anything is downloaded, not enough disk space; at the end, everything that went
            wrong in one line: unreachable, with the files to bring and where to; wrong size or checksum.
    """
    remote = urlsplit(base_url).scheme in ("http", "https")
    if remote:
        downloads.mkdir(parents=True, exist_ok=True)
    missing = sum(_missing_bytes(downloads / archive.name, archive) for archive in archives) if remote else 0
    # Images do not compress: unpacked they are as large as their archive.
    require_space(
        downloads if remote else downloads.parent,
        missing + sum(archive.size for archive in archives),
        f"{'downloading and ' * remote}unpacking {', '.join(archive.name for archive in archives)}",
    )
    failures, stop = {}, threading.Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tasks = {}
        for archive in archives:
            if remote:
                task = pool.submit(_obtain_remote, base_url, archive, downloads, stop)
            else:
                task = pool.submit(_obtain_local, base_url, archive)
            tasks[task] = archive
        try:
            for task in as_completed(tasks):
                archive = tasks[task]
                try:
                    path = task.result()
                except ExperimentError as error:
                    failures[archive.name] = error
                    if len(tasks) > 1:
                        logger.warning("%s failed (%s)", archive.name, error)
                    continue
                yield archive, path
        finally:
            stop.set()
            for task in tasks:
                task.cancel()
    if failures:
        raise ExperimentError("; ".join(_failure_lines(base_url, archives, downloads, failures)))


def _obtain_local(base_url, archive):
    url = urlsplit(base_url)
    folder = Path(unquote(url.path)) if url.scheme == "file" else Path(base_url).expanduser()
    path = folder / archive.name
    if not path.is_file():
        raise ExperimentError(f"archive {path} is missing; put it there or change base_url")
    verify(path, archive, remedy="replace it, or correct the entry in experiments.yaml")
    return path


def _obtain_remote(base_url, archive, downloads, stop):
    path = downloads / archive.name
    if path.exists():
        verify(path, archive, remedy="delete it and run stage download again", stop=stop)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    download(f"{base_url.rstrip('/')}/{archive.name}", archive.size, part, archive.name, stop)
    try:
        verify(part, archive, name=path.name, remedy="it was removed; run stage download again", stop=stop)
    except ExperimentError:
        part.unlink()
        raise
    os.replace(part, path)
    return path


def _part(path):
    return path.with_name(path.name + ".part")


def _missing_bytes(path, archive):
    if path.exists():
        return 0
    part = _part(path)
    return max(0, archive.size - (part.stat().st_size if part.exists() else 0))


def _failure_lines(base_url, archives, downloads, failures):
    """What went wrong, archives without an answer for the same reason together, with what to bring where."""
    reasons = {}
    for archive in archives:
        if isinstance(error := failures.get(archive.name), Unreachable):
            reasons.setdefault(str(error), []).append(archive)
        elif error:
            yield str(error)
    if not reasons:
        return
    names = (f"{', '.join(a.name for a in group)} ({reason})" for reason, group in reasons.items())
    files = (
        f"{downloads / a.name} ({', '.join([f'{a.size} bytes', *map(' '.join, a.checksums.items())])})"
        for group in reasons.values()
        for a in group
    )
    yield (
        f"cannot download from {base_url}: {', '.join(names)}; "
        f"check the network and run stage download again, or bring {', '.join(files)}"
    )


def verify(path, archive, remedy, name=None, stop=None):
    """Check size and all declared checksums of a file. Raises ExperimentError with `remedy`."""
    name = name or path
    size = path.stat().st_size
    if size != archive.size:
        raise ExperimentError(f"{name}: expected {archive.size} bytes, got {size}; {remedy}")
    digests = {algorithm: hashlib.new(algorithm) for algorithm in archive.checksums}
    with open(path, "rb") as file, progress(archive.size, f"verifying {archive.name}") as bar:
        while chunk := file.read(CHUNK):
            if stop and stop.is_set():
                raise Stopped
            for digest in digests.values():
                digest.update(chunk)
            bar.update(len(chunk))
    for algorithm, expected in archive.checksums.items():
        if (got := digests[algorithm].hexdigest()) != expected:
            raise ExperimentError(f"{name}: expected {algorithm} {expected}, got {got}; {remedy}")


def require_space(folder, needed, purpose):
    """Raise ExperimentError unless the disk of `folder` has `needed` free bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExperimentError(
            f"{purpose} needs {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; "
            "free some, or set CONTRASTMASK_HOME to a larger disk"
        )


def _unsafe(member):
    """Whether a member name or relative URL could lead outside the folder it is put in."""
    path = PurePosixPath(member)
    return (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in member
        or re.match(r"[A-Za-z]:", member) is not None
    )


def unpack(path, wanted, target):
    """Unpack the wanted members of a zip archive into `target`, replacing files of the same name.

    Args:
        path: the archive.
        wanted: compiled pattern that the full name of a member has to match; other members are left packed.
        target: folder on the same disk as its parent; created if missing.

    Raises:
        ExperimentError: a member that leads outside, a link, a bad CRC, no wanted member, not enough disk
            space. Then `target` is unchanged.
    """
    target.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f"{target.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if _unsafe(info.filename):
                    raise ExperimentError(
                        f"{path}: member '{info.filename}' leads outside the target; not unpacked"
                    )
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise ExperimentError(f"{path}: member '{info.filename}' is a link; not unpacked")
            members = [info for info in archive.infolist() if wanted.fullmatch(info.filename)]
            if not members:
                raise ExperimentError(f"{path}: holds none of the expected files ({wanted.pattern})")
            require_space(target, sum(info.file_size for info in members), f"unpacking {path.name}")
            for info in tqdm(members, desc=f"unpacking {path.name}", unit="file", mininterval=1):
                archive.extract(info, staging)  # zipfile checks the CRC
        for folder in {PurePosixPath(info.filename).parent for info in members}:
            (target / folder).mkdir(parents=True, exist_ok=True)
        for info in members:
            os.replace(staging / info.filename, target / info.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ExperimentError(
            f"{path}: damaged archive ({error}); delete it and run stage download again"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
