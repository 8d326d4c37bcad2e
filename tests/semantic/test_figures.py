"""Figures of label maps: which images, what a panel shows, and what stands on the axes."""

import json

import numpy as np
import pytest

from pipeline.artifacts import paths, results
from pipeline.datasets.label_maps import IGNORE
from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import experiments, subsets
from pipeline.errors import ExperimentError, NothingToShow
from pipeline.reporting import class_colours, figures, style
from pipeline.tasks.semantic import TASK, examples, stored
from tests.semantic.conftest import DATASET


@pytest.fixture
def drawn(scenes, scenes_root, tmp_path, monkeypatch):
    """A root of its own with the drawn scenes; gives a function that draws a declared figure there."""
    for name in ("pipeline", "params.yaml", "data"):
        (tmp_path / name).symlink_to(scenes_root / name)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    declared = experiments.load()
    monkeypatch.setattr(experiments, "load", lambda: declared)

    def draw(name, **changes):
        entry = declared.figures[name] | changes
        request = figures.Request(name, entry, DATASET, declared, figures.series_of(entry, declared))
        with style.paper_style():
            figure, caption = figures.KINDS[entry["kind"]].draw(request)
        style.plt.close(figure)
        return figure, caption

    return draw


@pytest.fixture
def groups(scenes):
    """Positions of base and of novel classes in direction s1."""
    return [[scenes.names.index(name) for name in members] for members in scenes.base_and_novel("s1")]


def evaluated(name, values, change=lambda found: found):
    """Write the results of a run, and its predictions: the truth, changed."""
    truth = Pack(subsets.validation(DATASET).annotations)
    records = [
        stored.record(image["file_name"], change(truth.read(position))) for position, image in enumerate(truth.images)
    ]
    path = paths.predictions(DATASET, name, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records))
    content = {"run": name, "dataset": DATASET, "direction": experiments.load().runs[name].direction}
    content |= {"method": "simformer", "task": TASK.name, "seeds": list(range(len(values)))}
    metric = {"kind": TASK.main_kind, "metric": TASK.main_metric.key}
    rows = [
        [{"group": group, "value": value} | metric for group, value in zip(TASK.groups, each, strict=True)]
        for each in values
    ]
    digest = results.predictions_digest(DATASET, name, 0)
    content["per_seed"] = [
        {"seed": seed, "scores": scores, "per_category": [], "predictions": digest if seed == 0 else None}
        for seed, scores in enumerate(rows)
    ]
    results.write(DATASET, name, content)


def test_images_are_the_first_of_which_both_groups_cover_enough(scenes, groups):
    truth = examples.load_truth(DATASET)
    fitting = [
        position
        for position in range(len(truth))
        if all(np.isin(truth.read(position), members).mean() >= 0.1 for members in groups)
    ]
    assert 0 < len(fitting) <= 4
    assert examples.select(truth, groups, 9) == fitting and examples.select(truth, groups, 1) == fitting[:1]


def test_panels_show_truth_split_and_predictions_with_their_fit(drawn, groups):
    def shifted(found):
        return np.where(np.isin(found, groups[1]), np.uint8(groups[0][0]), found)

    evaluated("simformer_basic_s1", [(1.0, 2.0, 3.0)], shifted)
    evaluated("simformer_s1", [(1.0, 2.0, 3.0)])
    figure, caption = drawn("simformer_maps", images=1)
    titles = ["Image", "Ground truth", "Base and novel", "Basic", "Cross-Pair"]
    assert [axis.get_title() for axis in figure.axes] == titles
    assert "not run: simformer_labels_s1 (`" in caption
    truth = examples.load_truth(DATASET)
    true = truth.read(examples.select(truth, groups, 1)[0])
    _, shown, split, wrong, right = (axis.images[0].get_array()[3::7, 3::7] for axis in figure.axes)
    assert shown.shape[:2] == true.shape and (shown == right).all() and (wrong != right).any()
    for members, group in zip(groups, ("base", "novel"), strict=True):
        colours = np.unique(split[np.isin(true, members)], axis=0)
        assert len(colours) == 1 and style.GROUP_COLOURS[group] == "#" + bytes(colours[0].tolist()).hex().upper()
        assert (wrong == right)[np.isin(true, members)].all() == (group == "base")
    texts = [["".join(text.get_text() for text in axis.texts)] for axis in figure.axes[3:]]
    assert texts[1] == ["IoU base 100.0 novel 100.0"] and texts[0][0].endswith("novel 0.0")
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named >= {experiments.load().label_set(DATASET).names[k] for k in np.unique(true) if k != IGNORE}


def test_pixels_without_label_are_striped():
    painted = class_colours.painted(np.array([[0, IGNORE] * 20], np.uint8), {0: (1, 2, 3)})
    assert (painted[:, ::2] == (1, 2, 3)).all()
    assert {tuple(pixel) for pixel in painted[0, 1::2].tolist()} == set(class_colours.STRIPES)


@pytest.mark.parametrize("label_set", ["stuff_and_things", "coco_stuff"])
def test_classes_that_are_shown_have_colours_of_their_own(label_set):
    from pipeline.declaration.label_sets import label_set as read

    names = read(label_set).names
    shown = list(range(len(names)))[-40:]
    found = class_colours.colours(names, shown)
    assert list(found) == shown and len(set(found.values())) == len(shown)
    assert class_colours.OTHER not in found.values()
    assert all(colour == class_colours.OTHER for colour in [*class_colours.colours(range(99), range(99)).values()][60:])


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.write_text("[]"), "its content is not what was scored"),
        (lambda path: path.unlink(), "none of its runs has data"),
    ],
)
def test_other_predictions_than_were_scored_are_not_drawn(spoil, message, drawn):
    evaluated("simformer_s1", [(1.0, 2.0, 3.0)])
    spoil(paths.predictions(DATASET, "simformer_s1", 0))
    with pytest.raises((ExperimentError, NothingToShow), match=message):
        drawn("simformer_maps")


def points(line):
    return [tuple(float(number) for number in point) for point in zip(*line.get_data(), strict=True)]


def test_scores_stand_over_the_number_of_points_a_panel_for_each_group(drawn):
    for run, score in (("simformer_j50_s1", 20.0), ("simformer_s1", 10.0), ("simformer_j150_s1", 30.0)):
        evaluated(run, [(score, 0.0, score + 40), (score + 2, 0.0, score + 40)])
    figure, caption = drawn("simformer_points")
    novel, whole, printed = figure.axes
    assert points(novel.lines[0]) == [(8, 21), (16, 11), (24, 31)]
    assert points(whole.lines[0]) == [(8, 60), (16, 50), (24, 70)]
    assert points(printed.lines[0]) == [(50, 30.7), (100, 31.1), (150, 31.2)]
    assert [list(axis.get_xticks()) for axis in figure.axes] == [[8, 16, 24], [8, 16, 24], [50, 100, 150]]
    assert [axis.get_title() for axis in figure.axes] == [
        "measured, novel\nscenes",
        "measured, all\nscenes",
        "published, novel\nCOCO-Stuff-10K test",
    ]
    assert "heights are not comparable between scenes and COCO-Stuff-10K" in caption


def test_scores_stand_over_the_share_of_novel_classes(drawn):
    for run, score in (("simformer_s9", 20.0), ("simformer_s5", 25.0), ("simformer_oracle_s5", 40.0)):
        evaluated(run, [(score, 0.0, 0.0)])
    figure, caption = drawn("simformer_share")
    here, there = figure.axes
    lines = {line.get_label(): line for line in here.lines}
    assert [points(line) for line in here.lines if len(line.get_xdata())][:2] == [
        [(25, 25), (50, 20)],  # 4 and 8 of 16 classes
        [(25, 40)],
    ]
    assert lines and [text.get_text() for text in here.get_xticklabels()] == ["25\n4", "50\n8"]
    published = {len(line.get_xdata()): points(line) for line in there.lines}[6]
    assert published[0][0] == pytest.approx(100 * 43 / 171) and published[-1][0] == pytest.approx(100 * 85 / 171)
    assert "simformer_s6" in caption and "simformer_s4" not in caption, "s4 is no split of scenes"
    assert "scales of their own" in caption


def test_nothing_measured_is_no_figure(drawn):
    with pytest.raises(
        NothingToShow, match="none of the runs of .* has a score on scenes; run `.*evaluate@simformer_s5 "
    ):
        drawn("simformer_share")


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("simformer_maps", {"runs": [{"label": "a", "run": "mask_rcnn_r50_1x_nonvoc2voc"}]}, "shows label maps, not"),
        ("simformer_points", {"groups": ["nowel"]}, "group of the task semantic: 'nowel'.*did you mean 'novel'"),
        ("simformer_share", {"runs": [{"label": "a", "run": "simformer_s9"}]}, r"figures.wrong.runs"),
    ],
)
def test_a_figure_that_cannot_be_is_refused(name, changes, message, tmp_path):
    wrong = experiments.load().figures[name] | changes
    for file in paths.EXPERIMENTS.glob("*.yaml"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "wrong.yaml").write_text(json.dumps({"figures": {"wrong": wrong}}))
    with pytest.raises(ExperimentError, match=message):
        experiments.load(tmp_path)
