"""The seed study: what counts of it, and what it says of a difference."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import study
from pipeline.tasks.instances import TASK

from .studies import grid, rows, write

AP = "novel_mask_mAP"


def found():
    return study.of("toy", experiments.load())


def test_only_what_nothing_was_chosen_on_and_what_is_drawn_alike_counts(toys):
    lines = rows({"plain": grid(1.0, 2.0, 3.0)})
    lines += rows({"plain": {("wide", 0): 50.0}}) + rows({"plain": {("toy1", 5): 60.0}}, phase="explore")
    lines += rows({"plain": {("toy1", 0): 1.0, ("toy1", 1): 4.0}}, phase="ablation")
    write(lines)
    assert found().values("plain", AP).to_dict() == grid(1.0, 2.0, 3.0) | {("toy1", 1): 4.0}
    assert found().described == "3 data sets, seeds 0, 1, code at 0123456789ab"


@pytest.mark.parametrize(
    "prepare, reason",
    [
        (lambda: None, "there is no reports/seed_study/runs.csv"),
        (lambda: write(rows({"plain": {("wide", 0): 1.0}})), "none on data that are drawn and trained on as toy is"),
        (lambda: write(rows({"plain": grid(1.0, 2.0, 3.0)}, phase="explore")), "none on data that are drawn"),
        (lambda: write([{"row": "Baseline", "dataset": "toy1", "seed": 0}]), "has no column 'phase'"),
    ],
)
def test_without_a_study_the_reason_is_known(toys, prepare, reason):
    prepare()
    assert not found() and reason in found().reason


def test_photographs_have_no_study(toys):
    write(rows({"plain": grid(1.0, 2.0, 3.0)}))
    assert study.of("coco2017", toys).reason == "coco2017 is not drawn"


@pytest.mark.parametrize("text", ["", f"phase,run,{AP}\nheld_out,plain,much\n"])
def test_a_damaged_file_is_named(toys, text):
    paths.study().parent.mkdir(parents=True)
    paths.study().write_text(text)
    with pytest.raises(ExperimentError, match="reports/seed_study/runs.csv: not a table of trainings"):
        found()


def test_trainings_are_compared_in_pairs(toys):
    reference = grid(10.0, 20.0, 30.0)
    write(
        rows({"plain": reference, "ours": {key: value + 2 for key, value in reference.items()} | {("toy1", 9): 90.0}})
    )
    comparison = found().compare("ours", "plain", AP)
    assert (comparison.mean, comparison.pairs, comparison.positive) == (2.0, 3, 3)
    assert comparison.verdict() == study.BETTER and found().compare("ours", "gone", AP) is None
    assert found().compare("ours", "plain", "novel_mask_APl") is None


def test_the_interval_is_student_s():
    differences = pd.Series(grid(1.0, 2.0, 3.0))
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    comparison = study.Comparison.of(differences)
    assert comparison.interval == comparison.over_pairs == pytest.approx((2 - half, 2 + half))
    assert comparison.verdict() == study.UNKNOWN


def test_where_trainings_on_one_data_set_agree_the_interval_over_data_sets_stands_beside():
    """Nine pairs of which three at a time are nearly the same tell as much as three."""
    apart = study.Comparison.of(pd.Series(grid(1.0, 1.1, 0.9, 5.0, 5.1, 4.9, 9.0, 9.1, 8.9)))
    assert apart.clustered and apart.over_sets == pytest.approx(study.interval([1.0, 5.0, 9.0]))
    assert apart.interval == apart.over_pairs and apart.over_sets[0] < 0 < apart.over_pairs[0]
    assert not study.Comparison.of(pd.Series(grid(1.0, 5.0, 9.0, 5.0, 9.0, 1.1, 9.0, 1.0, 5.2))).clustered


@pytest.mark.parametrize("keys", [[("a", 0)], [("a", 0), ("a", 1)], [("a", 0), ("b", 0)]])
def test_too_few_are_given_no_interval(keys):
    values = pd.Series([1.0, 1.1][: len(keys)], index=pd.MultiIndex.from_tuples(keys))
    comparison = study.Comparison.of(values)
    assert comparison.interval is None and comparison.verdict() == study.UNKNOWN


def test_a_verdict_follows_the_direction_of_the_metric():
    assert study.verdict((0.1, 2.0)) == study.verdict((-2.0, -0.1), lower_is_better=True) == study.BETTER
    assert study.verdict((0.0, 2.0)) == study.UNKNOWN


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_noise_alone_rarely_exceeds_the_threshold(seed, pairs):
    """Of 400 further means of pairs at most a few in a hundred, as the threshold covers the study's own error too."""
    rng = np.random.default_rng(seed)
    noise = study.Noise(deviation=3.0, freedom=10_000, pairs=10_000)
    means = rng.normal(0, 3.0, (400, pairs)).mean(axis=1)
    assert 0.01 <= (abs(means) > noise.threshold(pairs)).mean() <= 0.12


def test_noise_is_pooled_around_the_mean_of_each_run(toys):
    reference = grid(10.0, 20.0, 30.0)
    others = {
        name: {k: v + a + d for (k, v), d in zip(reference.items(), (-1, 0, 1), strict=True)}
        for name, a in (("ours", 5), ("swapped", -20))
    }
    write(rows({"plain": reference} | others))
    noise = found().noise(["ours", "swapped", "plain", "gone"], "plain", AP)
    assert (noise.deviation, noise.freedom, noise.pairs) == (pytest.approx(1.0), 4, 6)
    assert noise.threshold() == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(1 + 1 / 6))
    assert found().noise(["plain"], "plain", AP) is None


def test_what_never_varies_has_no_noise(toys):
    write(rows({"plain": grid(0.0, 0.0, 0.0), "ours": grid(0.0, 0.0, 0.0)}))
    assert found().noise(["ours"], "plain", AP) is None


def test_columns_are_called_as_the_task_calls_its_numbers():
    assert study.column(TASK) == AP and study.column(TASK, metric="APs") == "novel_mask_APs"
    assert study.column(TASK, group="base", kind="bbox") == "base_box_mAP"
    assert {study.column(TASK, *key) for *key, name in TASK.headline} == {name for *_, name in TASK.headline}


def test_label_maps_have_a_study_of_their_own_numbers(toys):
    """In one file with those of the first paper: neither counts for the other, nor shows the other's columns."""
    maps = {"kind": "drawn_maps", "seed": 0}
    declared = replace(toys, datasets=toys.datasets | {"maps": maps, "maps1": maps | {"seed": 1}})
    of_maps = rows({"labels": {("maps1", seed): 5.0 + seed for seed in range(3)}}, column="novel_mIoU")
    of_maps += rows({"basic": {("maps1", seed): 15.0 + seed for seed in range(3)}}, column="novel_mIoU")
    write(rows({"plain": grid(1.0, 2.0, 3.0)}) + of_maps)
    assert study.numbers(study.of("maps", declared).rows) == ["novel_mIoU"]
    assert study.numbers(study.of("toy", declared).rows) == [AP]
    assert study.of("maps", declared).compare("basic", "labels", "novel_mIoU").mean == 10.0
