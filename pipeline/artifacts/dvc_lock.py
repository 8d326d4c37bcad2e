"""Keep the dvc.lock of a working copy to itself.

DVC rewrites dvc.lock with hashes of trained weights, which differ between kinds of processors, and refuses one that
git ignores. So the repository holds an empty one, and git is told not to look at the one of the working copy (`git
update-index --skip-worktree`). Experiments still commit theirs. DVC resets the file when it sets one aside; a copy
brings it back, and without the copy `dvc repro` does, from DVC's run cache.
"""

import os
import re
import subprocess
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.artifacts import files, paths
from pipeline.errors import first_line

LOCK, COPY = "dvc.lock", ".dvc/tmp/own.lock"
CONFLICTS = "git left merge conflicts in it"


def keep_private():
    """Tell git to leave dvc.lock alone and bring back one that DVC emptied; no harm is done where that cannot be.

    Nothing happens where a dvc.lock with stages is committed or staged: whoever did so wants to version it. Nor is one
    touched that an experiment is to commit, only that of the working copy it was started in.
    """
    experiment = "DVC_EXP_BASELINE_REV" in os.environ
    root = Path(os.environ.get("DVC_ROOT", paths.ROOT)) if experiment else paths.ROOT
    if experiment and root == paths.ROOT or not _versions_none(root):
        return
    lock, copy = _read(root / LOCK), _read(root / COPY)
    if _is_empty(lock) and copy and damage(copy) is None:
        files.write_text(root / LOCK, copy)
    elif not _is_empty(lock) and not experiment and lock != copy and damage(lock) is None:
        files.write_text(root / COPY, lock)
    _hide(root)


def damage(text):
    """Why DVC cannot read a dvc.lock, in a few words; None if it can."""
    if re.search(r"^(<<<<<<<|>>>>>>>) ", text, re.MULTILINE):
        return CONFLICTS
    try:
        content = YAML(typ="safe").load(text)
    except YAMLError as error:
        return f"damaged ({first_line(str(error))})"
    return None if isinstance(content, dict) else "damaged (no mapping)"


def _versions_none(root):
    return "schema:" in (staged := _git(root, "show", f":./{LOCK}")) and _is_empty(staged)


def _is_empty(lock):
    return "stages:" not in lock


def _hide(root):
    _git(root, "update-index", "--skip-worktree", LOCK)


def _read(path):
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _git(root, *arguments):
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout
    except OSError:
        return ""
