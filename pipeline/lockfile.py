"""Keep the dvc.lock of a working copy to itself.

DVC rewrites dvc.lock with hashes of trained weights, which differ between kinds of processors, and refuses one that
git ignores. So the repository holds an empty one, and git is told not to look at the one of the working copy (`git
update-index --skip-worktree`). Experiments still commit theirs, and from DVC's run
cache `dvc repro` brings back what a lost one described.
"""

import os
import subprocess

from pipeline import paths


def keep_private():
    """Tell git to leave dvc.lock alone; no harm is done where that cannot be.

    Not inside an experiment, whose lock DVC commits, and not where a dvc.lock with stages is committed or staged:
    whoever did so wants to version it.
    """
    if "DVC_EXP_BASELINE_REV" not in os.environ and _is_empty(_git("show", ":./dvc.lock")):
        _git("update-index", "--skip-worktree", "dvc.lock")


def _is_empty(lock):
    return "schema:" in lock and "stages:" not in lock


def _git(*arguments):
    try:
        done = subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout
