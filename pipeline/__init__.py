"""Reproduction of ContrastMask (CVPR 2022): partially supervised instance segmentation.

Standard library alone, and no other module of the package: doctor and set-up come by here where nothing is installed.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def tie_to_parent(number=signal.SIGTERM):
    """Let this process get a signal when the one that started it is gone, however that ended."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def _say(kind, error, traceback):
    """Ctrl-C while a command still loads its libraries, before `pipeline.cli` watches: one line as later."""
    if issubclass(kind, KeyboardInterrupt):
        print("error: stopped by SIGINT", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _say

# What DVC, torchrun or make runs ends with them, from the first moment on: libraries take seconds to load. A shell may
# end before what it started.
if os.environ.keys() & {"DVC_STAGE", "TORCHELASTIC_RUN_ID", "MAKELEVEL"}:
    tie_to_parent()
