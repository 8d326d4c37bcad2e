"""Bring the archives of a dataset onto this machine and unpack them: resumable, verified before use, safe.

Nothing half-done carries a final name: downloads grow as `<archive>.part`, members are unpacked into a
temporary folder. Both are renamed only after size, checksums and CRCs agree. What does not agree is kept as
`<archive>.rejected`: the declared sum may be what is wrong.
"""

import errno
import hashlib
import logging
import lzma
import os
import re
import shutil
import stat
import struct
import threading
import unicodedata
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from pipeline.datasets.contents import differing, discard, unpacking
from pipeline.datasets.downloads import CHUNK, Stopped, Unreachable, announced_size, download, progress
from pipeline.datasets.files import require_regular
from pipeline.errors import ExperimentError

logger = logging.getLogger(__name__)

AT_ONCE = 3  # downloads
ALGORITHMS = ("sha256", "sha1", "md5")
LONGEST_NAME = 255  # bytes of a part of a path, on all usual file systems
# Images do not shrink when packed, annotations about five times; zeros do a thousand times.
SWELLING, SWELLING_FREE = 100, 1 << 26  # times an archive's size; bytes for which that is no concern
# What zipfile and its decompressors raise on damaged files, beside BadZipFile.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    struct.error,
    ValueError,
    OverflowError,
    IndexError,
    RuntimeError,
)


class Archive(NamedTuple):
    """One archive as a dataset entry declares it."""

    name: str  # path relative to the base URL
    size: int | None  # bytes, None where nobody has published them
    checksums: dict  # algorithm -> hex digest


def declared_archives(entry):
    """The archives of a dataset entry, as `schema.Coco` or `schema.LabelMaps` declares them."""
    return [
        Archive(name, facts.get("bytes"), {key: facts[key].lower() for key in ALGORITHMS if facts.get(key)})
        for name, facts in entry["archives"].items()
    ]


def is_remote(base_url):
    """Whether archives have to be downloaded; else they are used where they are."""
    return urlsplit(base_url).scheme in ("http", "https")


def sized(base_url, archive, downloads):
    """An archive with its size where none is declared: of the file that is here, else as the server announces it.

    Raises ExperimentError where there is neither; then it says what to bring where.
    """
    if archive.size is not None:
        return archive
    path = downloads / archive.name if is_remote(base_url) else _local(base_url, archive)
    require_regular(path)
    if path.exists() or not is_remote(base_url):
        return archive._replace(size=path.stat().st_size if path.exists() else 0)
    url = f"{base_url.rstrip('/')}/{archive.name}"
    try:
        return archive._replace(size=announced_size(url))
    except Unreachable as error:
        known = ", ".join(map(" ".join, archive.checksums.items())) or "of a size that its owner has not published"
        raise ExperimentError(
            f"cannot download {url} ({error}); check the network and the entry in pipeline/experiments/datasets.yaml, "
            f"then run `python -m stages.download` again, or bring {path} ({known})"
        ) from None


def obtain(base_url, archives, downloads, unpacked=None):
    """Yield `(archive, path)` of verified archives as they become complete, downloading several at a time.

    One that fails does not stop the others: a long download is worth finishing. Closing the generator stops all.

    Args:
        base_url: `http://`, `https://` or `file://` URL, or a path; archives of local folders are used in
            place.
        archives: what to get, as `declared_archives` gives it.
        downloads: folder for downloads; a finished or partial file there is used.
        unpacked: bytes that unpacking will need; the size of all archives if not given.

    Raises:
        ExperimentError: before anything is downloaded, not enough disk space; at the end, everything that went
            wrong in one line: unreachable, with the files to bring and where to; wrong size or checksum.
    """
    remote = is_remote(base_url)
    if remote:
        downloads.mkdir(parents=True, exist_ok=True)
    missing = sum(_missing_bytes(downloads / archive.name, archive) for archive in archives) if remote else 0
    # Images do not compress: unpacked they are as large as their archive.
    require_space(
        downloads if remote else downloads.parent,
        missing + (sum(archive.size for archive in archives) if unpacked is None else unpacked),
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


def _local(base_url, archive):
    url = urlsplit(base_url)
    folder = Path(unquote(url.path)) if url.scheme == "file" else Path(base_url).expanduser()
    return folder / archive.name


def _obtain_local(base_url, archive):
    path = _local(base_url, archive)
    require_regular(path)
    if not path.exists():
        raise ExperimentError(f"archive {path} is missing; put it there or change base_url")
    if reason := mismatch(path, archive):
        raise ExperimentError(
            f"{path}: {reason}; {_causes(archive)}: replace the file or correct the entry, then run "
            "`python -m stages.download` again"
        )
    return path


def _obtain_remote(base_url, archive, downloads, stop):
    path = downloads / archive.name
    part, rejected = _part(path), _rejected(path)
    for file in (path, part, rejected):
        require_regular(file)
    if path.exists():
        return _accept(path, path, archive, stop)
    if rejected.exists() and not mismatch(rejected, archive, stop):  # the declared sum was wrong and is corrected
        os.replace(rejected, path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    download(f"{base_url.rstrip('/')}/{archive.name}", archive.size, part, archive.name, stop)
    return _accept(part, path, archive, stop)


def _accept(file, path, archive, stop):
    """Give a verified file its final name; one that is not as declared is put aside."""
    if reason := mismatch(file, archive, stop):
        rejected = _rejected(path)
        os.replace(file, rejected)
        raise ExperimentError(
            f"{path}: {reason}; kept as {rejected.name}; {_causes(archive)}: run `python -m stages.download` again, "
            "which fetches another one, or correct the entry and run it again, and it takes the one kept"
        )
    os.replace(file, path)
    return path


def _causes(archive):
    return f"either the file is damaged or pipeline/experiments/datasets.yaml declares a wrong value for {archive.name}"


def _part(path):
    return path.with_name(path.name + ".part")


def _rejected(path):
    return path.with_name(path.name + ".rejected")


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
        "check the network and the entry in pipeline/experiments/datasets.yaml, then run "
        "`python -m stages.download` again, "
        f"or bring {', '.join(files)}"
    )


def mismatch(path, archive, stop=None):
    """Compare a file with the declared size and all declared checksums. Returns what differs, `None` if nothing."""
    size = path.stat().st_size
    if size != archive.size:
        return f"expected {archive.size} bytes, got {size}"
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
            return f"expected {algorithm} {expected}, got {got}"
    return None


def require_space(folder, needed, purpose):
    """Raise ExperimentError unless the disk of `folder` has `needed` free bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExperimentError(
            f"{purpose} needs {tqdm.format_sizeof(needed)}B, {folder} has {tqdm.format_sizeof(free)}B free; "
            "free some, or set CONTRASTMASK_HOME to a larger disk"
        )


def _unsafe(member):
    """Whether a member name or relative URL could lead outside the folder it is put in."""
    path = PurePosixPath(member)
    return path.is_absolute() or ".." in path.parts or "\\" in member or re.match(r"[A-Za-z]:", member) is not None


def unpack(path, wanted, target, expected=None, place=None):
    """Unpack those wanted members of a zip archive that `target` does not hold as the archive does.

    Args:
        path: the archive.
        wanted: compiled pattern that the full name of a member has to match; other members are left packed.
        target: folder on the same disk as its parent; created if missing.
        expected: what `wanted` means, for the message that there is none.
        place: (open archive, names of wanted members) -> {name: path below `target`}; what it leaves out stays packed.
            By default members keep their names.

    Returns:
        What the archive holds of it: {path below `target`: [bytes, CRC-32]}.

    Raises:
        ExperimentError: a member that leads outside or is no plain file, two of a name, encryption, an unknown
            compression, a bad CRC, no wanted member, not enough disk space. Then `target` is unchanged.
    """
    staging = unpacking(target)
    discard(staging)
    try:
        with _opened(path) as archive:
            members = {info.filename: info for info in _wanted_members(path, archive, wanted, expected)}
            if place:
                members = {where: members[name] for name, where in place(archive, list(members)).items()}
            held = {name: [info.file_size, info.CRC] for name, info in members.items()}
            lacking = differing(target, held)
            for name in lacking:
                if (target / name).is_dir():
                    raise ExperimentError(f"{target / name} is a folder where a file is due; move it away")
            target.mkdir(parents=True, exist_ok=True)
            require_space(target, sum(held[name][0] for name in lacking), f"unpacking {path.name}")
            for name in tqdm(lacking, desc=f"unpacking {path.name}", unit="file", mininterval=1):
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(members[name]) as source, open(staging / name, "wb") as file:
                    shutil.copyfileobj(source, file, CHUNK)  # zipfile checks the CRC
                    if file.tell() != held[name][0]:
                        raise zipfile.BadZipFile(f"{name} has {file.tell()} bytes, {held[name][0]} are declared")
        for folder in {PurePosixPath(name).parent for name in lacking}:
            (target / folder).mkdir(parents=True, exist_ok=True)
        for name in lacking:
            os.replace(staging / name, target / name)
        return held
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # those are of a decompressor, and of a member before the file
            raise
        raise _damaged(path, error) from None
    except DAMAGED as error:
        raise _damaged(path, error) from None
    finally:
        discard(staging)


def _damaged(path, error):
    reason = " ".join(str(error).split()) or type(error).__name__
    return ExperimentError(
        f"{path}: damaged archive ({reason}), though it is as pipeline/experiments/datasets.yaml declares it; "
        "bring a whole one and declare its bytes and checksums"
    )


def _opened(path):
    """Open an archive. Names without the mark that they are UTF-8 are that nevertheless where it is made on a Mac."""
    require_regular(path)
    try:
        return zipfile.ZipFile(path, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(path)


def _wanted_members(path, archive, wanted, expected):
    """The members to unpack, after a look at what an archive says about them."""
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if _unsafe(info.filename):
            _refuse(path, info, "leads outside the target")
        if kind == stat.S_IFLNK:
            _refuse(path, info, "is a link")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            _refuse(path, info, "is no file")
    members = [info for info in archive.infolist() if wanted.fullmatch(info.filename) and not info.is_dir()]
    if not members:
        first = next((info.filename for info in archive.infolist() if not info.is_dir()), "nothing")
        raise ExperimentError(
            f"{path}: holds none of the expected files, which are {expected or wanted.pattern}; "
            f"it holds e.g. {_shown(first)}; pack it like that"
        )
    alike = Counter(map(_folded, members))
    folders = {str(parent) for info in members for parent in PurePosixPath(info.filename).parents}
    names = Counter(info.filename for info in members)
    for info in members:
        parts = info.filename.split("/")
        if info.flag_bits & 1:
            _refuse(path, info, "is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            _refuse(path, info, f"is compressed in a way ({info.compress_type}) that Python cannot read")
        if stat.S_ISDIR(info.external_attr >> 16) or info.filename in folders:
            _refuse(path, info, "is a folder where a file is due")
        if not all(map(str.isprintable, info.orig_filename)) or {"", "."} & set(parts):
            _refuse(path, info, "has a name that is none")
        if max(len(os.fsencode(part)) for part in parts) > LONGEST_NAME:
            _refuse(path, info, f"has a name of more than {LONGEST_NAME} bytes")
        if names[info.filename] > 1:
            _refuse(path, info, "stands twice in it")
        if alike[_folded(info)] > 1:
            _refuse(path, info, "differs from another one in case or Unicode form only, which some disks cannot hold")
    unpacked, packed = sum(info.file_size for info in members), path.stat().st_size
    if unpacked > SWELLING_FREE and unpacked > SWELLING * packed:
        raise ExperimentError(
            f"{path}: would unpack to {unpacked} bytes, {unpacked // packed} times its size, which no images do; "
            "not unpacked"
        )
    return members


def _folded(info):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", info.filename).casefold())


def _refuse(path, info, reason):
    raise ExperimentError(f"{path}: member {_shown(info.filename)} {reason}; not unpacked")


def _shown(name):
    """A member's name, on one line and not too long."""
    return repr(name if len(name) <= 100 else f"{name[:60]}...{name[-20:]}")
