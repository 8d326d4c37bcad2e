"""Which classes lose their masks, for how long is trained, and mistakes in one line."""

from collections import Counter

import pytest

from pipeline import estimate
from pipeline.errors import ExperimentError

BASE, NOVEL = ("zebra", "giraffe", "elephant", "truck", "vase"), ("cat", "dog")


@pytest.fixture
def counts(monkeypatch):
    """Objects and masks of training and validation, {name: count} each, which a test changes; no data are needed."""
    both = {name: 4 for name in (*BASE, *NOVEL)}
    counts = {"train": (Counter(both), Counter(both)), "val": (Counter(both), Counter(both))}
    monkeypatch.setattr(estimate.runs, "ensure_images", lambda dataset: None)
    monkeypatch.setattr(estimate, "_objects", lambda path, labels: counts["train" if "train" in path.name else "val"])
    return counts


def plan(**options):
    return estimate.plan("generated", **{"sides": (BASE, NOVEL)} | options)


def test_every_class_with_masks_is_in_one_group(counts):
    for groups, sizes in ((None, [1] * 5), (estimate.EACH, [1] * 5), (2, [2, 3])):
        made = plan(groups=groups)
        assert sorted(map(len, made.groups)) == sizes
        assert sorted(name for group in made.groups for name in group) == sorted(BASE)
    assert plan(groups=2).groups == plan(groups=2).groups
    assert len({plan(groups=2, seed=seed).groups for seed in range(6)}) > 1
    assert plan().measured == NOVEL


def test_what_cannot_be_scored_keeps_its_masks(counts):
    counts["val"][0]["zebra"] = 0
    counts["val"][1]["vase"] = 1
    made = plan()
    assert made.kept == {"zebra": "no validation object", "vase": "3 of 4 validation objects have no mask"}
    assert {name for group in made.groups for name in group} == {"giraffe", "elephant", "truck"}


def remove(counts, part, names, masks_alone=False):
    for name in names:
        counts[part][1][name] = 0
        if not masks_alone:
            counts[part][0][name] = 0


MISTAKES = {
    "unknown": ({}, {"dataset": "fruits"}, "unknown dataset 'fruits'"),
    "method": ({}, {"method": "yolact"}, "unknown method 'yolact'"),
    "one group": ({}, {"groups": 1}, "--groups is 1; valid: 2 to 5"),
    "more groups": ({}, {"groups": 6}, "--groups is 6; valid: 2 to 5"),
    "iterations": ({}, {"iterations": 0}, "--iterations is 0; valid: a whole number from 1 on"),
    "seed": ({}, {"seed": -1}, "--seed is -1; valid"),
    "two": (
        {"train": BASE[:3]},
        {},
        "generated: 2 base classes can lose their masks for a try (truck, vase), at least 3 are needed",
    ),
    "none": ({"val": BASE}, {}, "(none), at least 3 are needed: .*; zebra: no validation object"),
    "every mask": ({"train": NOVEL}, {}, "generated: every class has masks, so there is nothing to estimate"),
    "nothing to score": ({"val": NOVEL}, {}, "generated: validation has no object of a novel class"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(counts, mistake):
    removed, options, line = MISTAKES[mistake]
    for part, names in removed.items():
        remove(counts, part, names)
    dataset = options.get("dataset", "generated")
    options = {name: value for name, value in options.items() if name != "dataset"}
    pattern = line if ".*" in line else None
    with pytest.raises(ExperimentError) as error:
        estimate.plan(dataset, **{"sides": (BASE, NOVEL)} | options)
    said = str(error.value)
    assert "\n" not in said
    head, _, tail = line.partition(".*")
    assert head in said and tail in said, (pattern, said)


def test_schedules_are_shortened_in_proportion():
    embedded = {"iterations": 400, "stands_for": 12, "milestones": [267, 367]}
    half = {"iterations": 200, "stands_for": 12, "milestones": [134, 184]}
    assert estimate.shortened(embedded) == (half, "200 of the 400 iterations of the schedule")
    assert estimate.shortened(embedded, 400) == (embedded, "400 iterations, the whole schedule")
    paper = {"epochs": 12, "milestones": [8, 11]}
    assert estimate.shortened(paper) == (
        {"epochs": 6, "milestones": [4], "stands_for": 12},
        "6 of the 12 epochs of the schedule",
    )
    steps, words = estimate.shortened(paper, 1200)
    assert steps == {"iterations": 1200, "milestones": [800, 1100], "stands_for": 12}
    assert words == "1200 iterations (the schedule has 12 epochs)"
    assert estimate.shortened(paper, 2)[0]["milestones"] == [1]
    assert "stands_for" not in estimate.shortened({"iterations": 20, "milestones": []})[0]


def test_a_training_is_that_of_the_run_but_for_its_masks_and_length(counts):
    made = plan(groups=2, iterations=10)
    jobs = [estimate.job_of(made, group) for group in ((), *made.groups)]
    assert len({job.split for job in jobs}) == 3 and {job.schedule["iterations"] for job in jobs} == {10}
    real = estimate.config.resolve(made.run.name, "generated", 0)
    assert all(job.model == real.model and job.data == real.data and job.knobs == real.knobs for job in jobs)
    assert estimate.job_of(plan(groups=2, iterations=10), ()) == jobs[0]
