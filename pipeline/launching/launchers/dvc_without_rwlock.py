"""python -m pipeline.launching.launchers.dvc_without_rwlock ...: DVC in jobs of a cluster, with no list of files.

The list, `.dvc/tmp/rwlock`, names processes by number, and DVC drops those that are not alive, which it cannot know of
another node: `dvc status` on the login node would drop what a running job has listed, and the job would fail over that
at its end. Jobs need no list: there is one for each target, and its outputs are its own. The lock of the repository,
which guards dvc.lock, stays.
"""

import contextlib
import sys

import dvc.rwlock
from dvc.cli import main

if __name__ == "__main__":
    dvc.rwlock.rwlock = lambda *arguments, **options: contextlib.nullcontext()
    sys.exit(main(sys.argv[1:]))
