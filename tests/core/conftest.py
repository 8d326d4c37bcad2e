"""A tiny training of the embedded profile in a root of its own."""

import shutil

import pytest

from pipeline import compat  # noqa: F401  # before the tests import mmdet
from pipeline.artifacts import paths
from tests.tiny import draw_inputs


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """A folder with a copy of the code, a few drawn images, their split, and random initial weights."""
    root = tmp_path_factory.mktemp("root")
    patch = pytest.MonkeyPatch()
    # a copy: in a process started there `pipeline.artifacts.paths` finds this root, and not where a link leads to
    shutil.copytree(paths.ROOT / "pipeline", root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.ROOT / "params.yaml", root)
    patch.setattr(paths, "ROOT", root)
    patch.setenv("CONTRASTMASK_HOME", str(root))
    try:
        draw_inputs()
    finally:
        patch.undo()
    return root


@pytest.fixture
def workspace(tiny_root, monkeypatch):
    """Paths lead to the tiny root."""
    monkeypatch.setattr(paths, "ROOT", tiny_root)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tiny_root))
    return tiny_root


@pytest.fixture
def new_home(tmp_path, monkeypatch):
    """A machine on which nothing was selected or launched."""
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    monkeypatch.setattr(paths, "SELECTION", tmp_path / "selection.yaml")
    return tmp_path


def empty(scratch):
    """Forget a training."""
    for path in scratch.glob("*"):
        path.unlink()
