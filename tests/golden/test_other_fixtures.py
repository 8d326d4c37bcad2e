"""commands.verify on fixtures it has never seen, made by another implementation; every check fails where it should."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import golden
from pipeline.methods.contrastmask.golden import Fixture, verify

from . import plain
from .test_verify import GOLDEN, WHOLE

LIGHT = ("edges", "partitions", "sample_counts", "loss", "enhance", "cam", "clhead_eval")
HEAVY = ("clhead_train", "maskhead_eval", "model")

# What a fixture's computation starts from; everything else in the files is compared.
INPUTS = {
    "edges": {"masks", "real_ann_ids", "real_boxes"},
    "partitions": {"masks", "cams", "is_novel", "sigmas"},
    "sample_counts": {"n", "sigmas"},
    "loss": {"temperatures", "query_pos", "query_neg", "easy_pos", "easy_neg", "hard_pos", "hard_neg"},
    "enhance": {"x", "upstream", "zero_x"},
    "cam": {"roi_feats", "labels", "fc_cls_weight", "fc_cls_bias"},
    "clhead_eval": set(),
    "clhead_train": {"masks", "cams", "is_novel"},
    "maskhead_eval": {"cam7"},
    "model_r50": {"rois", "labels", "image_sub"},
    "model_r50_test": {"proposals"},
    "mask_branch_train": {
        "gt_masks",
        "gt_bboxes",
        "gt_labels",
        "gt_is_novel",
        "pos_bboxes",
        "neg_bboxes",
        "pos_assigned_gt_inds",
        "pos_is_gt",
    },
}
# Compared with Eq. 1 and not with the file: with other queries in the file Eq. 1 gives other terms.
OF_EQ1 = ("pinned ", "seed")


def failures(folder):
    return [str(check) for check in verify(folder) if not check.ok]


@pytest.mark.parametrize(("seed", "rois"), [(1, 4), (2, 9)])
@pytest.mark.parametrize("name", LIGHT)
def test_other_values_and_numbers_of_rois(tmp_path, name, seed, rois):
    plain.write(tmp_path, name, seed, rois, None)
    assert failures(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_other_image_sizes_and_whole_heads(tmp_path, name):
    plain.write(tmp_path, name, 3, 3, (192, 224))
    assert failures(tmp_path) == []


def altered(values):
    """Change every value by more than any tolerance; sets and flags are inverted, counts and labels grow by one."""
    if values.dtype == bool:
        return ~values
    if np.issubdtype(values.dtype, np.integer):
        return values + 1
    largest = np.abs(values).max(initial=0) or 1
    return (values + 0.05 * largest).astype(values.dtype)


def unnoticed(folder, source, name):
    """Checks that hold although every compared array of a fixture is altered, and arrays that have no check."""
    with np.load(source / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    assert INPUTS[name] - {"real_ann_ids", "real_boxes", "sigmas"} <= set(arrays)
    compared = set(arrays) - INPUTS[name]
    np.savez(folder / f"{name}.npz", **{k: altered(v) if k in compared else v for k, v in arrays.items()})
    checks = list(verify(folder))
    held = [check.array for check in checks if check.ok and not check.array.startswith(OF_EQ1)]
    return held, compared - {check.array.split(" (")[0] for check in checks}


@pytest.mark.parametrize("name", LIGHT)
def test_every_check_fails_on_altered_values(tmp_path, name):
    held, unchecked = unnoticed(tmp_path, GOLDEN, name)
    assert [check for check in held if check != "something is compared"] == []
    assert {array for array in unchecked if not array.startswith("seed")} == set()


NOTICED = ": altered values are noticed"


class Twice(Fixture):
    """Compares what is computed with the array of the file, and with an altered one."""

    def close(self, array, got, *how, **further):
        super().close(array, got, *how, **further)
        self._altered(array, "close", got, *how, **further)

    def equal(self, array, got, *how):
        super().equal(array, got, *how)
        self._altered(array, "equal", got, *how)

    def _altered(self, array, kind, *arguments, **further):
        other = Fixture(self.name, self.arrays | {array: altered(self.expected(array))})
        getattr(other, kind)(array, *arguments, **further)
        self.holds(f"{array}{NOTICED}", not any(check.ok for check in other.checks))


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_whole_heads_are_reproduced_and_every_check_fails_on_altered_values(tmp_path, monkeypatch, name):
    """As the two tests above and test_verify.py do for parts, but computed once."""
    monkeypatch.setattr(golden, "Fixture", Twice)
    shutil.copy(GOLDEN / f"{name}.npz", tmp_path)
    checks = list(verify(tmp_path))
    assert [str(check) for check in checks if not check.ok] == []
    with np.load(GOLDEN / f"{name}.npz") as archive:
        compared = set(archive.files) - INPUTS[name]
    assert compared <= {check.array.removesuffix(NOTICED) for check in checks if check.array.endswith(NOTICED)}


def test_draws_of_other_cells_or_numbers_fail(tmp_path):
    with np.load(GOLDEN / "partitions.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    elsewhere = ~arrays["u10_easy_pos"][arrays["u10_keeps"]]
    none = np.zeros_like(arrays["seed1_sigma30_hard_neg"])
    changed = {"seed1_sigma30_easy_pos": elsewhere, "seed1_sigma30_hard_neg": none}
    np.savez(tmp_path / "partitions.npz", **arrays | changed)
    failed = {check.array for check in verify(tmp_path) if not check.ok}
    assert failed == {"seed1_sigma30: subsets", "seed1_sigma30: counts", "seed1_sigma30: uniform"}


def test_the_smallest_gradient_is_compared_too(tmp_path):
    """A tolerance relative to the largest norm would let it be anything."""
    with np.load(GOLDEN / "clhead_train.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    norms = arrays["grad_l2"].copy()
    smallest = int(norms.argmin())
    norms[smallest] *= 1.05
    assert norms[smallest] < 0.05 * norms.max()
    np.savez(tmp_path / "clhead_train.npz", **arrays | {"grad_l2": norms})
    assert [check.array for check in verify(tmp_path) if not check.ok] == ["grad_l2"]


def test_the_pinned_loss_is_checked(tmp_path, monkeypatch):
    """An implementation that ignores the temperature in the denominator agrees with the released code alone."""
    from pipeline.methods.contrastmask import losses

    right = losses._term
    monkeypatch.setattr(
        losses,
        "_term",
        lambda cosines, positives, negatives, tau, form, exchange: right(
            cosines, positives, negatives, tau, replace(form, denominator="plain"), exchange
        ),
    )
    shutil.copy(GOLDEN / "loss.npz", tmp_path)
    failed = [check.array for check in verify(tmp_path) if not check.ok]
    assert failed and all(array.startswith("pinned ") for array in failed)


def test_a_fixture_of_another_image_is_refused(tmp_path):
    with np.load(GOLDEN / "model_r50.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    np.savez(tmp_path / "model_r50.npz", **arrays | {"image_sub": arrays["image_sub"] + 1})
    with pytest.raises(ExperimentError, match="image_sub.*is not of the image that `drawn_image` draws"):
        list(verify(tmp_path))
