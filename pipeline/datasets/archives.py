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
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError
from urllib3.util import Retry

from pipeline.errors import ExperimentError

logger = logging.getLogger(__name__)

CHUNK = 1 << 18  # bytes; what a broken connection can cost
TIMEOUT = (10, 60)  # seconds to connect, and between two reads
ATTEMPTS = 5  # in a row without a single new byte
BACKOFF = 1.0  # seconds; doubles with each attempt
TRANSIENT = (429, 500, 502, 503, 504)
BROKEN_OFF = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
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


def obtain(base_url, archive, downloads):
    """Give the path of a verified archive, downloading it unless `base_url` is a folder of this machine.

    Args:
        base_url: `http://`, `https://` or `file://` URL, or a path; archives of local folders are used in
            place.
        archive: what to get.
        downloads: folder for downloads; a finished or partial file there is used.

    Raises:
        ExperimentError: unreachable, not enough disk space, wrong size or checksum.
    """
    scheme = urlsplit(base_url).scheme
    if scheme not in ("http", "https"):
        folder = Path(unquote(urlsplit(base_url).path)) if scheme == "file" else Path(base_url).expanduser()
        path = folder / archive.name
        if not path.is_file():
            raise ExperimentError(f"archive {path} is missing; put it there or change base_url")
        verify(path, archive, remedy="replace it, or correct the entry in experiments.yaml")
        return path
    path = downloads / archive.name
    if path.exists():
        verify(path, archive, remedy="delete it and run stage download again")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    _download(f"{base_url.rstrip('/')}/{archive.name}", archive, part, path)
    try:
        verify(part, archive, name=path.name, remedy="it was removed; run stage download again")
    except ExperimentError:
        part.unlink()
        raise
    os.replace(part, path)
    return path


def verify(path, archive, remedy, name=None):
    """Check size and all declared checksums of a file. Raises ExperimentError with `remedy`."""
    name = name or path
    size = path.stat().st_size
    if size != archive.size:
        raise ExperimentError(f"{name}: expected {archive.size} bytes, got {size}; {remedy}")
    digests = {algorithm: hashlib.new(algorithm) for algorithm in archive.checksums}
    with open(path, "rb") as file, _progress(archive, "verifying", 0) as progress:
        while chunk := file.read(CHUNK):
            for digest in digests.values():
                digest.update(chunk)
            progress.update(len(chunk))
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


def _download(url, archive, part, path):
    """Let `part` grow to the size of the archive, going on where an earlier attempt or run stopped."""
    have = part.stat().st_size if part.exists() else 0
    require_space(part.parent, archive.size - have, f"downloading {archive.name}")
    session = requests.Session()
    retry = Retry(ATTEMPTS, connect=2, backoff_factor=BACKOFF, status_forcelist=TRANSIENT)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    stalled, furthest = retry, have  # the adapter retries requests; these count bodies that broke off
    try:
        with _progress(archive, "downloading", have) as progress:
            while have != archive.size:
                try:
                    _request_rest(session, url, archive, part, progress)
                except BROKEN_OFF as error:
                    if isinstance(_cause(error), MaxRetryError):
                        raise  # the adapter has retried this one
                    logger.info("%s: connection lost (%s)", archive.name, error)
                have = part.stat().st_size if part.exists() else 0
                if have > archive.size:
                    part.unlink()
                    raise ExperimentError(
                        f"{url}: the server sends more than the expected {archive.size} bytes"
                    )
                if have < archive.size:
                    broken = f"the answer ended after {have} of {archive.size} bytes"
                    stalled, furthest = (retry, have) if have > furthest else (stalled, furthest)
                    stalled = stalled.increment("GET", url, error=ProtocolError(broken))
                    stalled.sleep()
    except (requests.RequestException, HTTPError) as error:
        raise ExperimentError(
            f"cannot download {url}: {_reason(error)}; check the network and run stage download again, "
            f"or bring the file ({archive.size} bytes) to {path}"
        ) from None


def _request_rest(session, url, archive, part, progress):
    """One request for what is missing of `part`; a server that ignores ranges sends all of it again."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # the server's file is shorter than what we have: begin again
            progress.reset()
            return
        response.raise_for_status()
        sent = response.headers.get("Content-Range", "")
        resumed = response.status_code == requests.codes.partial_content and sent.startswith(f"bytes {have}-")
        if not resumed:
            progress.reset()
        with open(part, "ab" if resumed else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                progress.update(len(chunk))
                if file.tell() > archive.size:
                    return


def _progress(archive, verb, done):
    return tqdm(
        total=archive.size,
        initial=done,
        desc=f"{verb} {archive.name}",
        unit="B",
        unit_scale=True,
        mininterval=1,
    )


def _cause(error):
    """What a requests exception wraps."""
    return error.args[0] if error.args else None


def _reason(error):
    """The innermost reason of nested requests and urllib3 exceptions, on one line."""
    while isinstance(inner := getattr(error, "reason", None) or _cause(error), Exception):
        error = inner
    return " ".join(str(error).split())


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
