"""The exceptions a user can meet; a stage turns them into one line and a non-zero exit code.

`one_line` is how an error is said wherever only a line fits: on stderr, in a status file, in a table.
"""

import errno
import os
import re
import signal

from pipeline.redaction import redact

# What the machine refuses, and what its user does about it. Everything else is a mistake of ours: a traceback.
REMEDIES = {
    (errno.ENOSPC,): "free some space (or inodes, `df -i`) and run again: what is finished is kept",
    (errno.EDQUOT,): "your quota is used up (`quota -s`); free some space and run again: what is finished is kept",
    (errno.EFBIG,): "`ulimit -f` or the file system allows no larger file; raise it and run again",
    (errno.EROFS,): "make it writable, or let CONTRASTMASK_HOME name a folder on another disk, and run again",
    (errno.EACCES, errno.EPERM): "give yourself the permission (`ls -l`, `chmod u+rwX`) and run again",
    (errno.EMFILE, errno.ENFILE): "run `ulimit -n 4096` and try again",
    (errno.ENOMEM,): "end other programs, or take fewer --jobs and CONTRASTMASK_WORKERS=1, and run again",
    (errno.EAGAIN,): "too many processes (`ulimit -u`): take fewer --jobs and CONTRASTMASK_WORKERS=1, and run again",
    (errno.EIO, errno.ESTALE): "the disk or its server is at fault; look at `dmesg`, mend it and run again",
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST): "a file is where a folder belongs or the reverse; move it away",
    (errno.ENAMETOOLONG, errno.ELOOP): "move the working copy to a shorter path without circular links",
}
REMEDY = {number: remedy for numbers, remedy in REMEDIES.items() for number in numbers}

# Exceptions of a data worker arrive with its traceback: the last one's unindented line is the error itself.
TRACEBACK = re.compile(r"^(?:Original )?Traceback \(most recent call last\):$", re.MULTILINE)
QUALIFIED = re.compile(r"^([\w.]*\.)?(\w+): ")


class ExperimentError(Exception):
    """Something the user can mend: the message names what, the offending value, the valid ones and the remedy.

    Attributes:
        exit_code: of a stage that ends with it.
    """

    exit_code = 1


class Refused(ExperimentError):
    """The machine refused to write or read a file: full disk, no permission and the like."""


class NothingToShow(ExperimentError):
    """A figure has nothing to draw on the chosen dataset: no run has data, or no image or object fits its rule."""


class Interrupted(ExperimentError):
    """A training was asked to stop and saved its state: the same command continues it.

    Args:
        message: as of every error.
        by: number of the signal that asked.
    """

    def __init__(self, message, by=signal.SIGTERM):
        super().__init__(message)
        self.exit_code = 128 + by


class Stopped(KeyboardInterrupt):
    """A signal other than that of Ctrl-C that asks a process to end: SIGTERM, or SIGHUP of a closed terminal.

    Args:
        by: its number.
    """

    def __init__(self, by):
        super().__init__()
        self.by = by


def one_line(error):
    """Say an error in one line: its own first one, with the path and the remedy if the machine refused something.

    Passwords are left out.

    Args:
        error: any exception, also one that a data worker of torch raised and that carries its traceback.
    """
    if isinstance(error, KeyboardInterrupt):
        return f"stopped by {signal.Signals(getattr(error, 'by', signal.SIGINT)).name}"
    if (refused := refusal(error)) is not None:
        return redact(refused)
    line = first_line(redact(error))
    kind = type(error).__name__
    if isinstance(error, ExperimentError) or line.startswith(f"{kind}: "):
        return line.removeprefix("ExperimentError: ")
    return f"{kind}: {line}" if line else kind


def first_line(text):
    """The line of a text that says what happened: after its last traceback if it has one, else the first."""
    parts = TRACEBACK.split(text)
    lines = [line.rstrip() for line in parts[-1].splitlines() if line.strip()]
    if len(parts) > 1:
        at = next((i for i, line in enumerate(lines) if not line[0].isspace()), 0)
        lines = lines[at:]
        lines[:1] = [QUALIFIED.sub(r"\2: ", line) for line in lines[:1]]
    if not lines:
        return ""
    follows = lines[0].endswith(":") and len(lines) > 1  # the reason stands below, as in torch's load_state_dict
    return " ".join(line.strip() for line in lines[: 1 + follows])


def refusal(error):
    """One line, path and remedy, for an error with which the machine refused something; None for any other."""
    if isinstance(error, ExperimentError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno not in REMEDY:
            return None
        path = error.filename2 or error.filename
        return _refused(error.errno, None if path is None or isinstance(path, int) else os.fsdecode(path))
    # From a data worker, or through a library that keeps the system's words alone.
    said = str(error)
    if isinstance(error, (OSError, RuntimeError)):
        if found := re.search(r"\[Errno (\d+)\] [^:\n]*(?:: '([^'\n]*)')?", said):
            return _refused(int(found[1]), found[2]) if int(found[1]) in REMEDY else None
        if re.search(r"shared memory (object|\(shm\))|killed by signal: Bus error", said):
            return "/dev/shm is full: enlarge it (docker run --shm-size) or set CONTRASTMASK_WORKERS=1, and run again"
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENOMEM):
            if os.strerror(number) in said:
                return f"{first_line(said)}; {REMEDY[number]}"
    return None


def _refused(number, path):
    where = path or ("a disk that is written to" if number in (errno.ENOSPC, errno.EDQUOT) else "the system")
    return f"{where}: {os.strerror(number)}; {REMEDY[number]}"
