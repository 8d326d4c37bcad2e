"""The released code's numbers are reproduced, and `commands.verify` notices when they are not."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from commands.verify import main
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask.golden import drawn, verify

GOLDEN = Path(__file__).parent
# Slow ones, which test_other_fixtures.py looks at.
WHOLE = ("clhead_train", "maskhead_eval", "model_r50", "model_r50_test", "mask_branch_train")
FILES = sorted(file.name for file in GOLDEN.glob("*.npz")) + sorted(file.name for file in GOLDEN.glob("*.json"))


def check(directory):
    return {f"{check.fixture}:{check.array}": check for check in verify(directory)}


def copy(name, directory, **changed):
    """Copy a fixture with some arrays replaced."""
    with np.load(GOLDEN / name) as archive:
        arrays = {key: archive[key] for key in archive.files}
    np.savez(directory / name, **{**arrays, **changed})
    return arrays


@pytest.mark.parametrize("name", [name for name in FILES if name.removesuffix(".npz") not in WHOLE])
def test_every_fixture_is_reproduced(name, tmp_path):
    shutil.copy(GOLDEN / name, tmp_path)
    checks = check(tmp_path)
    assert checks
    assert [str(c) for c in checks.values() if not c.ok] == []


def test_the_drawn_numbers_are_those_of_the_fixtures():
    assert drawn("image", (4,))[0].item() == pytest.approx(-0.78936070, abs=1e-7)


def test_a_number_beyond_tolerance_fails_its_line_alone(tmp_path):
    arrays = copy("enhance.npz", tmp_path)
    wrong = arrays["out"] * (1 + 1e-4)
    copy("enhance.npz", tmp_path, out=wrong)
    failed = [c.array for c in verify(tmp_path) if not c.ok]
    assert failed == ["out"]


def test_one_wrong_cell_of_a_set_fails(tmp_path):
    arrays = copy("partitions.npz", tmp_path)
    sets = arrays["u10_hard_pos"].copy()
    sets[0, 14, 14] ^= True
    copy("partitions.npz", tmp_path, u10_hard_pos=sets)
    assert [c.array for c in verify(tmp_path) if not c.ok] == ["u10_hard_pos"]


def test_a_wrong_shape_fails_instead_of_broadcasting(tmp_path):
    arrays = copy("enhance.npz", tmp_path)
    copy("enhance.npz", tmp_path, out=arrays["out"][:1])
    assert [c.array for c in verify(tmp_path) if not c.ok] == ["out"]


def test_another_number_of_rois_is_accepted(tmp_path):
    arrays = copy("edges.npz", tmp_path)
    np.savez(tmp_path / "edges.npz", masks=arrays["masks"][3:8], edges=arrays["edges"][3:8])
    arrays = copy("cam.npz", tmp_path)
    per_roi = {key: value[1:3] for key, value in arrays.items() if not key.startswith("fc_cls")}
    copy("cam.npz", tmp_path, **per_roi)
    arrays = copy("sample_counts.npz", tmp_path)
    np.savez(tmp_path / "sample_counts.npz", n=arrays["n"][::7], sampled=arrays["sampled"][:, ::7])
    assert [str(c) for c in verify(tmp_path) if not c.ok] == []


def test_bad_directories_are_refused(tmp_path):
    with pytest.raises(ExperimentError, match="no fixtures"):
        list(verify(tmp_path))
    (tmp_path / "loss.npz").write_bytes(b"not an archive")
    with pytest.raises(ExperimentError, match="loss.npz: cannot be read"):
        list(verify(tmp_path))
    np.savez(tmp_path / "loss.npz", terms=np.zeros(4))
    with pytest.raises(ExperimentError, match="'query_pos' is missing"):
        list(verify(tmp_path))
    np.savez(tmp_path / "a_new_one.npz", x=np.zeros(1))
    with pytest.raises(ExperimentError, match="unknown fixture"):
        list(verify(tmp_path))


def test_the_command_prints_one_line_per_array_and_fails_beyond_tolerance(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["verify", "--golden", str(tmp_path)])
    arrays = copy("sample_counts.npz", tmp_path)
    main()
    assert capsys.readouterr().out.splitlines()[-1].startswith("checks=1 failed=0")
    copy("sample_counts.npz", tmp_path, sampled=arrays["sampled"] + 1)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("FAIL sample_counts.npz")
    assert printed.err.strip() == "error: 1 of 1 checks are beyond tolerance"
