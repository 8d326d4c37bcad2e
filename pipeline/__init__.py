"""Reproduction of ContrastMask (CVPR 2022): partially supervised instance segmentation."""

import sys


def _say(kind, error, traceback):
    """Ctrl-C while a command still loads its libraries, before `pipeline.cli` watches: one line as later."""
    if issubclass(kind, KeyboardInterrupt):
        print("error: stopped by SIGINT", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _say
