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


def test_an_array_that_nothing_compares_is_told(tmp_path):
    found = checks(tmp_path, "matcher.npz", cost_of_nothing=np.zeros(3))
    assert [check.note for check in found if check.array == "something is compared"] == ["(not read: cost_of_nothing)"]


def test_a_file_of_which_nothing_is_compared_fails(tmp_path):
    shutil.copy(GOLDEN / "targets.npz", tmp_path)
    np.savez(tmp_path / "pairs.npz", other=np.zeros(3))
    found = [check for check in golden.verify(tmp_path) if check.fixture == "pairs.npz"]
    assert [(check.array, check.ok) for check in found] == [("something is compared", False)]


def test_the_number_of_points_is_found_where_it_is_no_multiple_of_five():
    fixture = golden.Fixture("pairs.npz", {})
    for count in range(1, 60):
        parts = [int(0.8 * count), int(0.2 * count)]
        found = golden._points_of(fixture, "common", parts)
        assert [int(0.8 * found), int(0.2 * found)] == parts and found <= count


@pytest.mark.parametrize(
    "rule, share", [("random", 0.0), ("novel_list", 0.0), ("deconfounded", 0.3), ("one_common", 0.3)]
)
def test_outcomes_are_those_of_many_draws(rule, share):
    rng = np.random.default_rng(3)
    table = golden.PairTable(rng.random((9, 4)) < 0.4, rng.random((9, 3)) < 0.5)
    for place in range(9):
        found = golden.outcomes(table, place, rule, share)
        drawn = [table.draw(place, rule, share, rng) for _ in range(400)]
        assert sum(found.values()) == pytest.approx(1) and set(drawn) <= found.keys()
        assert all(abs(drawn.count(image) / 400 - p) < 0.12 for image, p in found.items())


def test_an_image_of_any_size_is_found_by_every_eighth_pixel():
    for rows, columns in ((96, 120), (91, 123), (64, 33)):
        part = golden.image("model", rows, columns)[::8, ::8]
        found = golden._picture(part, (2 * rows, 2 * columns))
        assert np.array_equal(found[::8, ::8], part) and found.shape[1] == columns


def test_another_file_and_missing_images_are_named(tmp_path):
    shutil.copy(GOLDEN / "matcher.npz", tmp_path)
    with pytest.raises(ExperimentError, match="targets.npz: no such file"):
        list(golden.verify(tmp_path))
    shutil.copy(GOLDEN / "matcher.npz", tmp_path / "another.npz")
    with pytest.raises(ExperimentError, match="another.npz: unknown fixture"):
        list(golden.verify(tmp_path))
