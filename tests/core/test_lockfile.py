"""A working copy's dvc.lock is out of git's sight, unless someone versions it."""

import subprocess

import pytest

from pipeline.artifacts import dvc_lock, paths

EMPTY = "schema: '2.0'\n"
OWN = "schema: '2.0'\nstages:\n  train:\n    cmd: python train.py\n"


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def repository(folder, lock=EMPTY):
    folder.mkdir()
    (folder / "dvc.lock").write_text(lock)
    (folder / ".gitignore").write_text("/.dvc/tmp/\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "state")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("DVC_EXP_BASELINE_REV", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(paths, "ROOT", repository(tmp_path / "here"))
    return paths.ROOT


def test_what_dvc_writes_leaves_git_status_clean(here):
    (here / "dvc.lock").write_text(OWN)
    assert git(here, "status", "--porcelain") == " M dvc.lock\n"
    dvc_lock.keep_private()
    assert git(here, "status", "--porcelain") == ""
    git(here, "commit", "-q", "--allow-empty", "-a", "-m", "work")
    assert git(here, "show", "HEAD:dvc.lock") == EMPTY and (here / "dvc.lock").read_text() == OWN


def test_the_documented_command_versions_it_for_good(here):
    (here / "dvc.lock").write_text(OWN)
    dvc_lock.keep_private()
    git(here, "update-index", "--no-skip-worktree", "dvc.lock")
    git(here, "add", "dvc.lock")
    dvc_lock.keep_private()
    git(here, "commit", "-q", "-m", "lock")
    (here / "dvc.lock").write_text(OWN.replace("train.py", "other.py"))
    dvc_lock.keep_private()
    assert git(here, "show", "HEAD:dvc.lock") == OWN and git(here, "status", "--porcelain") == " M dvc.lock\n"


def test_an_experiment_keeps_its_own_and_brings_back_that_of_the_working_copy(here, tmp_path, monkeypatch):
    (here / "dvc.lock").write_text(OWN)
    dvc_lock.keep_private()
    (here / "dvc.lock").write_text(EMPTY)  # as DVC leaves it once the experiment is set aside
    git(here, "update-index", "--no-skip-worktree", "dvc.lock")
    experiment = repository(tmp_path / "experiment")
    (experiment / "dvc.lock").write_text(OWN)
    monkeypatch.setattr(paths, "ROOT", experiment)
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123abc")
    monkeypatch.setenv("DVC_ROOT", str(here))
    dvc_lock.keep_private()
    assert git(experiment, "status", "--porcelain") == " M dvc.lock\n"
    assert (here / "dvc.lock").read_text() == OWN and git(here, "status", "--porcelain") == ""


def test_newer_stages_are_not_replaced_by_the_copy(here, tmp_path, monkeypatch):
    (here / "dvc.lock").write_text(OWN)
    dvc_lock.keep_private()
    newer = OWN.replace("train.py", "newer.py")
    (here / "dvc.lock").write_text(newer)
    monkeypatch.setattr(paths, "ROOT", repository(tmp_path / "experiment"))
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123abc")
    monkeypatch.setenv("DVC_ROOT", str(here))
    dvc_lock.keep_private()
    assert (here / "dvc.lock").read_text() == newer


def test_no_git_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    dvc_lock.keep_private()
    monkeypatch.setenv("PATH", "")
    dvc_lock.keep_private()


def test_the_committed_lock_is_empty():
    """With stages in it, every run on another processor would show as a change."""
    staged = subprocess.run(["git", "show", ":./dvc.lock"], cwd=paths.ROOT, capture_output=True, text=True).stdout
    assert "stages:" not in staged


def test_a_lock_that_an_experiment_left_empty_comes_back(here):
    (here / "dvc.lock").write_text(OWN)
    dvc_lock.keep_private()
    (here / "dvc.lock").write_text(EMPTY)
    git(here, "update-index", "--no-skip-worktree", "dvc.lock")
    dvc_lock.keep_private()
    assert (here / "dvc.lock").read_text() == OWN and git(here, "status", "--porcelain") == ""


CONFLICT = "schema: '2.0'\n<<<<<<< ours\nstages:\n=======\nstages: {}\n>>>>>>> theirs\n"


@pytest.mark.parametrize("damaged", [CONFLICT.encode(), OWN.encode() + b"  a: [\n", OWN.encode() + b"\xff\x00"])
@pytest.mark.parametrize("before", [None, OWN])
def test_a_damaged_lock_is_no_copy_and_does_not_come_back_once_it_is_removed(here, damaged, before):
    """The remedy that the launch prints, `rm dvc.lock`, and the same command again."""
    if before:
        (here / "dvc.lock").write_text(before)
        dvc_lock.keep_private()
    (here / "dvc.lock").write_bytes(damaged)
    dvc_lock.keep_private()
    assert (here / "dvc.lock").read_bytes() == damaged
    (here / "dvc.lock").unlink()
    dvc_lock.keep_private()
    assert (here / "dvc.lock").read_text() == before if before else not (here / "dvc.lock").exists()


def test_a_damaged_copy_of_an_earlier_version_does_not_come_back(here):
    (here / ".dvc/tmp").mkdir(parents=True)
    (here / ".dvc/tmp/own.lock").write_text(CONFLICT)
    dvc_lock.keep_private()
    assert (here / "dvc.lock").read_text() == EMPTY
