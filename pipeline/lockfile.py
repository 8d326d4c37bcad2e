"""Keep the dvc.lock of a working copy to itself.

DVC rewrites dvc.lock with hashes of trained weights, which differ between kinds of processors, and refuses one that
git ignores. So the repository holds an empty one, and git is told not to look at the one of the working copy (`git
update-index --skip-worktree`). Experiments still commit theirs. DVC resets the file when it sets one aside; a copy
brings it back, and without the copy `dvc repro` does, from DVC's run cache.
"""

import os
import subprocess
from pathlib import Path

from pipeline import paths
from pipeline.reporting.files import write_text

LOCK, COPY = "dvc.lock", ".dvc/tmp/own.lock"


def keep_private():
    """Tell git to leave dvc.lock alone; no harm is done where that cannot be.

    Nothing happens where a dvc.lock with stages is committed or staged: whoever did so wants to version it. Nor is one
    touched that an experiment is to commit.
    """
    if "DVC_EXP_BASELINE_REV" not in os.environ:
        if _versions_none(paths.ROOT):
            _hide(paths.ROOT)
            if not _is_empty(lock := _read(paths.ROOT / LOCK)):
                write_text(paths.ROOT / COPY, lock)
        return
    root = Path(os.environ.get("DVC_ROOT", paths.ROOT))  # of the working copy that an experiment was started in
    if root != paths.ROOT and _versions_none(root) and _is_empty(_read(root / LOCK)) and (copy := _read(root / COPY)):
        write_text(root / LOCK, copy)
        _hide(root)


def _versions_none(root):
    return "schema:" in (staged := _git(root, "show", f":./{LOCK}")) and _is_empty(staged)


def _is_empty(lock):
    return "stages:" not in lock


def _hide(root):
    _git(root, "update-index", "--skip-worktree", LOCK)


def _read(path):
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _git(root, *arguments):
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout
    except OSError:
        return ""
