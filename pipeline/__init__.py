"""Reproduction of ContrastMask (CVPR 2022): partially supervised instance segmentation."""

import os
import sys

from pipeline.processes import tie_to_parent


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
