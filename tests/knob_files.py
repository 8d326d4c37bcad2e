"""The pinned knobs of all methods, in a test's own root: what is declared names them."""

import shutil

from pipeline.artifacts import paths

ROOT = paths.ROOT


def copy(root):
    """Copy them below `root`, each where it stands in the repository."""
    for file in (ROOT / "pipeline" / "methods").glob("*/knobs.yaml"):
        target = root / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
