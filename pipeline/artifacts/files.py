"""Write files so that one that exists is complete: under a temporary name, then renamed.

The temporary name `<name>.<machine>-<process>-<random>.part` is that of one writer alone. It goes if the writing
fails; those of processes that were killed go when the file is written the next time.
"""

import contextlib
import glob
import json
import os
import re
import secrets
import shutil

import psutil

from pipeline.errors import Refused, refusal

OWNER = re.compile(r"(?P<machine>.+)-(?P<process>\d+)-[0-9a-f]{8}\.part")  # behind the name and a dot


@contextlib.contextmanager
def replacing(path, durable=False):
    """Yield a path to write to, which takes the place of `path` if the block succeeds; else the old content stays.

    For libraries that open a file themselves; it has another suffix than `path`.

    Args:
        path: its folder is created.
        durable: make content and name outlive a loss of power.

    Raises:
        Refused: full disk, no permission and the like; names `path`, whatever call of the block failed.
    """
    temporary = path.with_name(f"{path.name}.{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}.part")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget_leftovers(path)
        try:
            yield temporary
            if durable:
                _sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # what failed counts, not that its remains cannot be removed
                temporary.unlink()
            raise
        if durable:
            _sync(path.parent)


@contextlib.contextmanager
def writing(path, durable=False):
    """Yield a binary file that takes the place of `path`, see `replacing`."""
    with replacing(path, durable) as temporary, temporary.open("xb") as file:
        yield file


@contextlib.contextmanager
def naming(path):
    """Let an OSError that names no file, or a temporary one of `path`, name `path`; yields it.

    Raises:
        Refused: full disk and the like, see `pipeline.errors.refusal`.
    """
    try:
        yield path
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename).startswith(f"{path}.")):
            error.filename = str(path)
            error.filename2 = None
        if line := refusal(error):
            raise Refused(line) from None
        raise


def write_bytes(path, content, durable=False):
    """Write bytes in one step, see `writing`."""
    with writing(path, durable) as file:
        file.write(content)


def write_text(path, content, durable=False):
    """Write a text (UTF-8) in one step, see `writing`."""
    write_bytes(path, content.encode(), durable)


def write_json(path, content, durable=False):
    """Write compact JSON in one step, see `writing`."""
    write_text(path, json.dumps(content, separators=(",", ":")) + "\n", durable)


def copy(source, target):
    """Copy a file in one step, see `writing`."""
    with source.open("rb") as content, writing(target) as file:
        shutil.copyfileobj(content, file, 2**20)


def read_json(path, kind=dict):
    """The JSON content of a file that nothing depends on, or None if it is absent, damaged or not of this type."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, kind) else None


def _forget_leftovers(path):
    """Remove what killed processes of this machine left of earlier attempts to write a file."""
    for old in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        owner = OWNER.fullmatch(old.name.removeprefix(f"{path.name}."))
        if owner and owner["machine"] == os.uname().nodename and not _writes(int(owner["process"]), old):
            old.unlink(missing_ok=True)


def _writes(process, path):
    """Whether a process may have written a file; a later one of the same number has not."""
    try:
        return psutil.Process(process).create_time() <= path.stat().st_mtime + 1
    except (psutil.Error, FileNotFoundError):
        return False


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
