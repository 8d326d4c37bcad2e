"""Look what a path is before it is opened, and say what to do where the disk refuses.

Reading a FIFO or a device may never end.
"""

import contextlib
import errno
import os
import stat

from pipeline.errors import ExperimentError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def require_regular(path):
    """Refuse what is there and is not a regular file, or a link to one; a path where nothing is passes.

    Raises:
        ExperimentError: a folder, FIFO, socket, device, or a link that leads nowhere.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        if os.path.islink(path):
            raise ExperimentError(f"{path}: a link to {os.readlink(path)}, where nothing is; mend it") from None
        return
    if kind != stat.S_IFREG:
        found = KINDS.get(kind, "no file")
        raise ExperimentError(f"{path}: {found} where a file is due; move it away and put the file there")


@contextlib.contextmanager
def refusals_told(path):
    """Turn an OSError into one line; `path` is named where the error names none."""
    try:
        yield
    except OSError as error:
        raise ExperimentError(told(error, path)) from error


def told(error, path):
    """What an OSError says, and what to do about it."""
    if error.errno in FULL:
        advice = "free some space (`df -h` and `df -i` tell), or set CONTRASTMASK_HOME to a larger disk for the images"
    elif error.errno in FORBIDDEN:
        advice = "give yourself access, or set CONTRASTMASK_HOME to a folder for the images that is"
    else:
        advice = "mend that"
    where = error.filename2 or error.filename or path
    return (
        f"{where}: {error.strerror or error}; {advice}, then run `python -m stages.download` again: "
        "what was complete is kept"
    )
