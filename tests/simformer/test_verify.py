"""The released code's numbers are reproduced, and a wrong one is noticed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ExperimentError
from pipeline.methods.simformer import golden

GOLDEN = Path(__file__).parents[1] / "golden_comparison" / "simformer"
FILES = sorted(file.name for file in GOLDEN.iterdir() if file.suffix in (".npz", ".json"))


def checks(tmp_path, name, **changed):
    shutil.copy(GOLDEN / "targets.npz", tmp_path)
    if changed:
        with np.load(GOLDEN / name) as archive:
            np.savez(tmp_path / name, **{key: archive[key] for key in archive.files} | changed)
    else:
        shutil.copy(GOLDEN / name, tmp_path)
    return [check for check in golden.verify(tmp_path) if check.fixture == name]


@pytest.mark.parametrize("name", FILES)
def test_every_fixture_is_reproduced(name, tmp_path):
    found = checks(tmp_path, name)
    assert found and [str(check) for check in found if not check.ok] == []


def test_a_wrong_number_fails_its_line_alone(tmp_path):
    with np.load(GOLDEN / "matcher.npz") as archive:
        wrong = archive["cost_0"] * (1 + 1e-4)
    assert [check.array for check in checks(tmp_path, "matcher.npz", cost_0=wrong) if not check.ok] == ["cost_0"]


def test_another_file_and_missing_images_are_named(tmp_path):
    shutil.copy(GOLDEN / "matcher.npz", tmp_path)
    with pytest.raises(ExperimentError, match="targets.npz: no such file"):
        list(golden.verify(tmp_path))
    shutil.copy(GOLDEN / "matcher.npz", tmp_path / "another.npz")
    with pytest.raises(ExperimentError, match="another.npz: unknown fixture"):
        list(golden.verify(tmp_path))
