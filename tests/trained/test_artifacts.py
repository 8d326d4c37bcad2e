"""`dvc artifacts get` finds models by name and version, whose weights lie in the outputs of trainings."""

import shutil
import subprocess

import pytest
from dvc.repo import Repo
from dvc.repo.artifacts import check_name_format
from ruamel.yaml import YAML

from pipeline.declaration import experiments
from tools.pins import ROOT

CONTENT = YAML(typ="safe").load(ROOT / "dvc.yaml")
RUNS = "runs/${dataset}/"


@pytest.mark.parametrize("name", CONTENT["artifacts"])
def test_a_model_is_the_output_of_a_pinned_run(name):
    check_name_format(name)
    artifact = CONTENT["artifacts"][name]
    run, seed = artifact["path"].removeprefix(RUNS).split("/")
    assert artifact["type"] == "model" and seed == "seed0"
    assert RUNS + "${key}" in CONTENT["stages"]["train"]["do"]["outs"]
    declared = experiments.load()
    assert declared.runs[run].pinned and run in experiments.runs_of(declared.tables["table2"])


@pytest.mark.slow
def test_a_release_is_found_by_its_name_and_version(tmp_path, monkeypatch):
    folder = tmp_path / "released"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = CONTENT["artifacts"]["contrastmask"]["path"].replace("${dataset}", "generated")
    (folder / path).mkdir(parents=True)
    (folder / path / "checkpoint.pth").write_bytes(b"weights")
    shutil.copy(ROOT / "params.yaml", folder)
    with (folder / "dvc.yaml").open("w") as file:
        stage = {"cmd": "true", "outs": [path.removesuffix("/seed0")]}
        YAML().dump({"stages": {"train": stage}, "artifacts": CONTENT["artifacts"]}, file)

    def git(*words):
        subprocess.run(["git", "-c", "user.name=me", "-c", "user.email=me@localhost", *words], check=True)

    git("init", "-q")
    with Repo.init() as repo:
        repo.commit(force=True)
    git("add", "-A")
    git("commit", "-qm", "Release contrastmask")
    git("tag", "-a", "contrastmask@v1.0.0", "-m", "ContrastMask")
    with Repo.open(str(folder)) as repo:
        repo.artifacts.download("contrastmask", version="v1.0.0", out=str(tmp_path / "got"))
    assert (tmp_path / "got" / "checkpoint.pth").read_bytes() == b"weights"
