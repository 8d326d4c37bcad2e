"""What `make compare` prints of the rows that DVC lists."""

import math

import pytest

from pipeline.reporting.compare import comparison

NUMBERS = {"novel_mask_mAP": 12.345, "novel_mask_AP50": 50.0, "base_mask_mAP": 20.0, "novel_box_mAP": 53.0}
WORKSPACE = {
    "Experiment": None,
    "rev": "workspace",
    "State": None,
    **NUMBERS,
    "params.yaml:sigma": 0.3,
    "pipeline/methods/contrastmask/knobs.yaml:sigma": 0.3,
    "dataset": "toy",
    "seeds": "[0]",
}
COMMIT = WORKSPACE | {"rev": "main"} | dict.fromkeys(NUMBERS, "!")
LOWER = WORKSPACE | {"Experiment": "lower", "rev": "0123abc", "params.yaml:sigma": 0.2, "novel_mask_mAP": 0.0}


@pytest.fixture(autouse=True)
def knobs(workspace):
    """params.yaml of the workspace: dataset, sigma, delta."""


def test_changed_knobs_and_numbers_stand_side_by_side():
    frame = comparison([WORKSPACE, COMMIT, LOWER])
    assert list(frame.columns[:3]) == ["Experiment", "sigma", "mask AP, novel"] and len(frame.columns) == 6
    assert frame.iloc[:, :3].values.tolist() == [["workspace", "0.3", "12.3"], ["lower", "0.2", "0.0"]]


def test_what_dvc_marks_as_missing_is_a_dash():
    failed = LOWER | dict.fromkeys(NUMBERS, "!") | {"State": "Failed"}
    waiting = LOWER | dict.fromkeys(NUMBERS, math.nan) | {"Experiment": "waiting", "State": "Queued"}
    frame = comparison([WORKSPACE, failed, waiting])
    assert "!" not in frame.to_string() and "nan" not in frame.to_string().lower()
    assert frame["mask AP, novel"].tolist() == ["12.3", "–", "–"]
    assert frame["State"].tolist() == ["", "failed", "queued"]


def test_a_commit_whose_numbers_are_versioned_is_shown():
    frame = comparison([WORKSPACE, COMMIT | NUMBERS])
    assert frame["Experiment"].tolist() == ["workspace", "main"]


def test_nothing_to_compare_is_one_line():
    assert comparison([WORKSPACE]).values.tolist() == [["workspace", "12.3", "50.0", "20.0", "53.0"]]
