"""Whatever a server does, stage download ends in the right dataset or in one line that says what is wrong."""

import json
import random
import shutil

import pytest

from pipeline.datasets import downloads
from pipeline.datasets.prepare import prepare
from pipeline.errors import ExperimentError

from .faulty_server import FAULTS, FINAL, Faults, serve
from .test_prepare import coco_entry, zips  # noqa: F401

SCENARIOS = 50


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(downloads, "BACKOFF", 0.001)
    monkeypatch.setattr(downloads, "CHUNK", 1 << 12)
    monkeypatch.setattr(downloads, "TIMEOUT", (1, 0.1))
    monkeypatch.delenv("COCO_ROOT", raising=False)


def run(zips, url, folder):  # noqa: F811
    prepare("mini", coco_entry(zips, url), images_root=folder / "home" / "images", out_dir=folder / "out")
    return json.loads((folder / "out" / "manifest.json").read_text())


@pytest.fixture(scope="module")
def expected(zips, tmp_path_factory):  # noqa: F811
    with serve(zips) as (url, _):
        return run(zips, url, tmp_path_factory.mktemp("expected"))


def script(rng):
    """Some faults in a row, now and then without an end."""
    passing = [name for name in FAULTS if name not in FINAL]
    names = [rng.choice(FINAL if rng.random() < 0.05 else passing) for _ in range(rng.choice((0, 1, 2, 3, 4, 6)))]
    return [names[0], ...] if names and rng.random() < 0.05 else names


def test_every_fault_occurs():
    happened = set()
    for seed in range(SCENARIOS):
        rng = random.Random(seed)
        happened.update(name for _ in range(3) for name in script(rng))
    assert happened >= set(FAULTS)


@pytest.mark.parametrize("seed", range(SCENARIOS))
def test_a_verified_dataset_or_one_clear_error(zips, expected, tmp_path, monkeypatch, seed):  # noqa: F811
    rng = random.Random(seed)
    faults = Faults(script={name: script(rng) for name in zips}, seed=seed)
    for name, content in zips.items():
        if rng.random() < 0.2:  # what an earlier run left
            part = tmp_path / "home" / "downloads" / f"{name}.part"
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content[: rng.randrange(len(content))])
    with serve(zips, faults) as (url, _):
        try:
            manifest = run(zips, url, tmp_path)
        except ExperimentError as error:
            assert "\n" not in str(error) and "run `python -m stages.download` again" in str(error)
            assert not (tmp_path / "out").exists()
            for path in (tmp_path / "home" / "downloads").rglob("*.zip"):
                assert path.read_bytes() == zips[path.name], "what has a final name is verified"
            monkeypatch.setattr(downloads, "TIMEOUT", (10, 10))
            faults.script.clear()
            manifest = run_until_clean(zips, url, tmp_path)
    assert manifest == expected
    kept = {path.name for path in (tmp_path / "home" / "downloads").rglob("*")}
    assert set(zips) <= kept <= {*zips, *(f"{name}.rejected" for name in zips)}
    shutil.rmtree(tmp_path / "out")
    assert run(zips, "http://127.0.0.1:9", tmp_path) == expected, "nothing is asked for a second time"


def run_until_clean(zips, url, folder):  # noqa: F811
    """Run again; a part with wrong bytes in it is found, put aside, and fetched by the run after that."""
    try:
        return run(zips, url, folder)
    except ExperimentError as error:
        assert ".rejected; either the file is damaged or" in str(error)
        return run(zips, url, folder)
