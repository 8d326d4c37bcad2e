import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.datasets.generated import scenes
from pipeline.declaration import experiments
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.reporting import category_scores, figures, panels, qualitative, style
from pipeline.reporting.figures import build_figure, saved_caption
from pipeline.tasks.instances import examples
from tests.scores import change, long_tables

GROUPS = {"base": ("zebra",), "novel": ("person",)}
ALL_KINDS = ("loss_curves", "qualitative", "category_ap", "base_novel_gap")


def drawn(name):
    """The matplotlib figure before it is saved."""
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    entry = declared.figures[name]
    request = figures.Request(name, entry, dataset, declared, figures.series_of(entry, declared))
    with style.paper_style():
        figure, caption = figures.KINDS[entry["kind"]].draw(request)
    style.plt.close(figure)
    return figure, caption


def written(axis):
    """The texts in a panel and below it."""
    return [text.get_text() for text in axis.texts]


def declare(name, kind, **entry):
    """Declare one more figure in the workspace; of the run `ours` unless it says otherwise."""
    runs = [{"label": "Ours", "run": "ours"}]
    experiments.load().figures[name] = {"kind": kind, "title": "One more", "tables": ["table2"], "runs": runs} | entry
    return name


def rename_categories(workspace, names):
    """Give the validation set these categories: {id: name}."""
    path = paths.annotations("toy", "val2017")
    content = json.loads(path.read_text()) | {"categories": [{"id": id, "name": name} for id, name in names.items()]}
    workspace.write(path, json.dumps(content))


def digests(name):
    return {e: hashlib.sha256(paths.figure("toy", name, e).read_bytes()).hexdigest() for e in style.EXTENSIONS}


@pytest.mark.parametrize("name", ["loss_curves", "qualitative"])
def test_same_input_gives_the_same_bytes(workspace, name):
    workspace.everything()
    build_figure(name)
    first = digests(name)
    build_figure(name)
    assert digests(name) == first
    start = f"The {name} on toy (generated images, drawn by a program, not COCO). "
    assert saved_caption(name, "toy").startswith(start)
    assert saved_caption(name, "coco2017") is None


@pytest.mark.parametrize("name", ALL_KINDS)
def test_a_missing_run_is_left_out_and_named(workspace, name):
    workspace.everything()
    for path in (paths.results("toy", "ours"), paths.log("toy", "ours", 0)):
        path.unlink()
    assert "No result on toy, not run: ours (`dvc repro evaluate@ours`)." in drawn(name)[1]


@pytest.mark.parametrize("name", ["loss_curves", "category_ap", "base_novel_gap", "qualitative"])
def test_a_figure_of_which_no_run_has_data_says_so_and_how_to_make_it(workspace, name):
    build_figure(name)
    command = "run `dvc repro evaluate@plain evaluate@ours`"
    assert saved_caption(name, "toy").endswith(f"Nothing to draw: none of its runs has data on toy; {command}.")
    svg = " ".join(paths.figure("toy", name, "svg").read_text().split())
    assert "none of its runs has data" in svg and paths.figure("toy", name, "pdf").exists()


def test_a_file_that_cannot_be_right_is_an_error_and_not_a_picture(workspace):
    workspace.write(paths.results("toy", "plain"), "{")
    with pytest.raises(ExperimentError, match="results/toy/plain.json: not JSON"):
        build_figure("category_ap")
    assert not list(workspace.root.rglob("*.png"))


def test_loss_curves_have_a_panel_for_each_term_and_units(workspace):
    workspace.everything()
    figure, _ = drawn("loss_curves")
    assert [axis.get_title() for axis in figure.axes] == ["Total", "Classification", "Mask"]
    assert figure.axes[2].get_ylabel() == "nats per pixel"
    colours = {line.get_color() for line in figure.axes[0].lines}
    assert colours == {style.method_colour("mask_rcnn"), style.method_colour("contrastmask")}


def test_broken_log_is_named(workspace):
    workspace.log("plain", text='{"iter": 1, "loss": 2}\n{"iter": 2, "lo')
    with pytest.raises(ExperimentError, match=r"logs/toy/plain/seed0.jsonl: a line"):
        build_figure("loss_curves")


def test_categories_are_split_into_base_and_novel_and_those_without_ap_left_out(workspace):
    workspace.everything()
    figure, _ = drawn("category_ap")
    shown = {axis.get_title(): [label.get_text() for label in axis.get_xticklabels()] for axis in figure.axes}
    assert shown == {"base categories": ["zebra\nn 2"], "novel categories": ["person\nn 2"]}
    bars = [patch.get_height() for patch in figure.axes[1].patches]
    assert bars == [10.0, 22.0]


def test_gap_is_base_minus_novel_mean_over_seeds(workspace):
    workspace.everything()
    figure, _ = drawn("base_novel_gap")
    assert [text.get_text() for text in figure.axes[0].texts] == ["30.0", "18.0"]


def test_images_are_the_first_with_a_base_and_a_novel_object_large_enough(workspace):
    base, novel = 24, 1
    workspace.validation_set(
        {
            7: [(base, 0.2, 0), (novel, 0.2, 0)],
            5: [(base, 0.2, 0), (novel, 0.2, 0)],
            4: [(base, 0.2, 0), (novel, 0.2, 1)],  # the novel one is a crowd
            3: [(base, 0.2, 0), (novel, 0.01, 0)],  # the novel one is too small
            2: [(base, 0.2, 0), (base, 0.2, 0)],
            9: [(novel, 0.02, 0), (base, 0.02, 0)],
        }
    )
    ground_truth = examples.load_ground_truth("toy")
    assert examples.select_images(ground_truth, GROUPS, 2) == [5, 7]
    assert examples.select_images(ground_truth, GROUPS, 9) == [5, 7, 9]
    assert examples.select_images(ground_truth, GROUPS, 9, shows=("base",)) == [2, 3, 4, 5, 7, 9]
    assert examples.select_images(ground_truth, GROUPS, 9, shows=("novel",)) == [5, 7, 9]


@pytest.mark.parametrize(
    "count, skip, shown, skipped",
    [
        (2, 0, [3, 5], 0),
        (2, 1, [5, 7], 1),
        (1, 2, [7], 2),
        (2, 9, [5, 7], 1),  # too few images to pass over nine
        (4, 1, [3, 5, 7], 0),
    ],
)
def test_images_of_other_figures_are_passed_over_as_far_as_there_are_more(count, skip, shown, skipped):
    assert examples.skip_images([3, 5, 7][: skip + count], count, skip) == (shown, skipped)


def test_objects_are_the_first_of_each_category_before_the_second_of_any():
    assert examples.select_objects([7, 7, 7, 9, 8], 3) == [0, 3, 4]
    assert examples.select_objects([7, 7, 7, 9, 8], 4) == [0, 1, 3, 4]
    assert examples.select_objects([7, 7], 4) == [0, 1]
    assert examples.select_objects([], 4) == []


def test_base_and_novel_masks_differ_in_colour_and_low_scores_are_not_drawn(workspace):
    workspace.everything()
    workspace.predictions("ours", [1, 2], score=0.49)
    figure, caption = drawn("qualitative")
    assert caption.startswith("The first 2 validation images by image id") and ": 1, 2." in caption
    _, truth, plain, ours = figure.axes[:4]
    assert [axis.get_title() for axis in figure.axes[:4]] == ["Image", "Ground truth", "Baseline", "Ours"]
    assert len(truth.patches) == len(plain.patches) == 2 * 3  # fill, halo and outline of each object
    assert len(ours.patches) == 0
    fills = {patch.get_facecolor()[:3] for patch in truth.patches if patch.get_fill()}
    assert fills == {to_rgb(colour) for colour in style.GROUP_COLOURS.values()}


def test_images_side_by_side_leave_out_the_picture_without_masks(workspace):
    workspace.everything()
    workspace.validation_set({i: [(1, 0.2, 0), (24, 0.1, 0)] for i in (1, 2, 3)})
    runs = [{"label": name, "run": run} for name, run in (("Baseline", "plain"), ("Ours", "ours"))]
    declare("pairs", "qualitative", runs=runs, images=2, skip=1, across=2, min_score=0.5)
    figure, caption = drawn("pairs")
    assert caption.startswith("Validation images 2 to 3 by image id of those that show a base and a novel object")
    shown = [axis for axis in figure.axes if axis.axison]  # the legend of shapes has none
    assert [axis.get_title() for axis in shown] == ["Ground truth", "Baseline", "Ours"] * 2
    assert [axis.get_ylabel() for axis in shown] == ["2", "", "", "3", "", ""]
    assert len({round(axis.get_position().y0, 6) for axis in shown}) == 1


def test_novel_results_show_novel_categories_above_the_threshold_and_their_names(workspace):
    workspace.everything()
    workspace.validation_set({1: [(24, 0.2, 0)], 2: [(1, 0.2, 0)], 3: [(1, 0.02, 0)], 4: [(1, 0.01, 0)]})
    workspace.predictions("ours", [1, 2], score=0.7)
    declare("novel", "novel_results", images=5, across=2, min_score=0.6)
    figure, caption = drawn("novel")
    assert caption.startswith("The first 2 validation images by image id that show a novel object, covering at least")
    assert ": 2, 3." in caption and "Ours" in caption
    with_prediction, without = (axis for axis in figure.axes if axis.axison)
    assert written(with_prediction)[0] == "person 0.70"  # and not the zebra
    assert len(with_prediction.patches) == 3 and len(without.patches) == 0
    assert "no prediction" in written(without) and "no prediction" not in written(with_prediction)
    experiments.load().figures["novel"]["min_score"] = 0.71
    assert not drawn("novel")[0].axes[0].patches


def test_names_of_equal_masks_stand_beside_each_other(workspace):
    workspace.everything()
    workspace.predictions("ours", [1, 1])  # the same mask twice
    declare("novel", "novel_results", images=1, across=1, min_score=0.5)
    axis = drawn("novel")[0].axes[0]
    first, second = (text.get_position() for text in axis.texts if text.get_text().startswith("person"))
    assert first != second and len(axis.patches) == 6


def test_a_note_of_the_declaration_ends_the_caption(workspace):
    workspace.everything()
    declare("noted", "base_novel_gap", note="As in the paper.")
    build_figure("noted")
    assert saved_caption("noted", "toy").endswith(" As in the paper.")


def test_outlines_keep_their_corners_and_nothing_else(workspace):
    square = np.zeros((9, 9), dtype=bool)
    square[2:6, 3:8] = True
    with style.paper_style():
        figure, axis = style.plt.subplots()
        panels.outline(axis, square, "red")
    style.plt.close(figure)
    (path,) = axis.collections[1].get_paths()
    assert len(path.vertices) == 2 * 4 + 1  # each corner is cut at half a pixel; the last point closes the line
    assert path.vertices.min(0).tolist() == [2.5, 1.5] and path.vertices.max(0).tolist() == [7.5, 5.5]


def test_missing_image_is_named(workspace):
    workspace.everything()
    (paths.images("toy", "val2017") / "2.png").unlink()
    with pytest.raises(ExperimentError, match=r"2.png: listed in instances_val2017.json but missing"):
        build_figure("qualitative")


def test_no_image_fits_the_rule(workspace):
    workspace.everything()
    workspace.validation_set({1: [(1, 0.2, 0)]})
    build_figure("qualitative")
    caption = saved_caption("qualitative", "toy")
    assert caption.endswith(
        "Nothing to draw: no validation image of toy shows both a base and a novel object that cover 2% of it."
    )


def test_many_categories_wrap_into_rows(workspace):
    names = label_set("coco").base_and_novel("nonvoc2voc")[0][:25]
    scores = long_tables({"novel": 10.0, "base": 40.0, "all": 30.0}, dict.fromkeys((*names, "person"), 20.0))
    workspace.result("plain", per_seed=[{"seed": 0, **scores}])
    ids = {category.name: category.id for category in label_set("coco").categories}
    workspace.validation_set({1: [(ids[name], 0.1, 0) for name in (*names, "person")]})
    rename_categories(workspace, {id: name for name, id in ids.items()})
    figure, _ = drawn("category_ap")
    assert [len(axis.get_xticklabels()) for axis in figure.axes] == [20, 5, 1]


def test_png_is_a_picture_of_page_width(workspace):
    workspace.everything()
    build_figure("category_ap")
    with Image.open(io.BytesIO(paths.figure("toy", "category_ap", "png").read_bytes())) as image:
        assert image.width == pytest.approx(style.PAGE_WIDTH * 200, rel=0.03)


def test_a_png_that_would_be_large_is_drawn_coarser(workspace, monkeypatch):
    monkeypatch.setattr(style, "EXTENSIONS", ("png",))
    workspace.everything()
    build_figure("qualitative")
    usual = paths.figure("toy", "qualitative", "png").stat().st_size
    monkeypatch.setattr(figures, "LARGEST_PNG", usual - 1)
    build_figure("qualitative")
    assert paths.figure("toy", "qualitative", "png").stat().st_size < usual


def test_every_declared_figure_can_be_drawn_and_those_looked_into_are_known():
    declared = experiments.load()
    for name, entry in declared.figures.items():
        assert entry["kind"] in figures.KINDS, name
    assert set(experiments.INSIDE_FIGURES) <= set(figures.KINDS)


def test_every_method_has_a_colour_of_its_own():
    colours = [methods.method(name).colour for name in methods.names()]
    assert len(set(colours)) == len(colours)


def test_reporting_needs_neither_torch_nor_mmdet():
    code = (
        "import sys, stages.tables, stages.figures, stages.report;"
        "print(*{'torch', 'mmcv', 'mmdet', 'mlflow'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_rows_of_pictures_are_as_wide_as_the_page_and_their_panels_as_high_as_each_other():
    with style.paper_style():
        figure, axes = panels.grid(["A", "B"], [0.5, 2.0, 1.0], across=2)
    style.plt.close(figure)
    width, height = figure.get_size_inches()
    boxes = [[axis.get_position() for axis in row] for row in axes]
    for row, aspect in zip(boxes, [0.5, 2.0, 1.0], strict=True):
        for box in row:
            assert box.height * height / (box.width * width) == pytest.approx(aspect)
    assert boxes[0][0].height == pytest.approx(boxes[1][1].height)
    assert boxes[1][1].x1 == pytest.approx(1) and boxes[2][1].x1 < 0.51  # the last row has one picture of two
    assert boxes[0][1].x0 - boxes[0][0].x1 == pytest.approx(panels.GAP / width)
    assert boxes[1][0].x0 - boxes[0][1].x1 == pytest.approx(panels.BLOCK_GAP / width)


def no_detections(workspace):
    for run in ("plain", "ours"):
        workspace.write(paths.predictions("toy", run, 0), "[]")


def no_defined_ap(workspace):
    for run in ("plain", "ours"):
        content = json.loads(paths.results("toy", run).read_text())
        for seed in content["per_seed"]:
            seed |= long_tables(dict.fromkeys(("novel", "base", "all")), dict.fromkeys(("person", "zebra")))
            seed["undefined"] = {"segm": {"person": "no object has a mask", "zebra": "no object has a mask"}}
        workspace.write(paths.results("toy", run), json.dumps(content))


def edit_objects(workspace, edit):
    path = paths.annotations("toy", "val2017")
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        edit(annotation)
    workspace.write(path, json.dumps(content))


def no_masks(workspace):
    edit_objects(workspace, lambda annotation: annotation.pop("segmentation"))


def empty_masks(workspace):
    edit_objects(workspace, lambda annotation: annotation.update(segmentation=[], area=0))


def one_image(workspace):
    workspace.validation_set({1: [(1, 0.2, 0), (24, 0.1, 0)]})


def one_category(workspace):
    workspace.validation_set({1: [(1, 0.2, 0)], 2: [(1, 0.2, 0)]})


def a_run_missing(workspace):
    paths.results("toy", "plain").unlink()
    paths.log("toy", "plain", 0).unlink()


def odd_labels(workspace):
    declared = experiments.load()
    for entry in declared.figures.values():
        entry["runs"] = [
            {"label": label, "run": run}
            for label, run in zip(
                ("very long label " * 12 + "x" * 90, "$\\frac{µ$ <b>_^ 対照 ‮"), ("plain", "ours"), strict=True
            )
        ][-len(entry["runs"]) :]
    rename_categories(workspace, {1: "person", 24: "zebra"})


def losses_without_a_number(workspace):
    for run in ("plain", "ours"):
        workspace.log(run, '{"iter": 1, "loss": NaN, "loss_mask": Infinity}\n')


SCENES = [
    no_detections,
    no_defined_ap,
    no_masks,
    empty_masks,
    one_image,
    one_category,
    a_run_missing,
    odd_labels,
    losses_without_a_number,
]


@pytest.mark.parametrize("change", SCENES, ids=lambda change: change.__name__)
def test_every_figure_builds_whatever_the_data_lack(workspace, monkeypatch, change):
    monkeypatch.setattr(style, "EXTENSIONS", ("png",))
    workspace.everything()
    declare("novel", "novel_results", images=2, across=2, min_score=0.5)
    change(workspace)
    for name in (*ALL_KINDS, "novel"):
        build_figure(name)
        assert saved_caption(name, "toy")


def test_objects_without_a_mask_are_drawn_as_boxes_and_have_no_iou(workspace):
    workspace.everything()
    edit_objects(workspace, lambda a: a["category_id"] == 1 and a.update(segmentation=[], area=0))
    figure, _ = drawn("qualitative")
    _, truth, plain, _ = figure.axes[:4]
    assert {"person, no mask", "zebra"} <= set(written(truth))
    assert " novel undefined (no mask)" in written(plain)
    assert sum(patch.get_fill() for patch in truth.patches) == 1  # the zebra's; a box has no fill


def test_panels_tell_class_score_and_fit(workspace):
    workspace.everything()
    figure, caption = drawn("qualitative")
    _, truth, plain, _ = figure.axes[:4]
    assert sorted(written(truth)) == ["person", "zebra"]
    assert {"person 0.90", "zebra 0.90", "IoU"} <= set(written(plain))
    assert "matched with the true object of its category" in caption
    workspace.predictions("ours", [])
    assert "no prediction" in written(drawn("qualitative")[0].axes[3])
    assert {" base 0.00", " novel 0.00"} <= set(written(drawn("qualitative")[0].axes[3]))


def square(left, right, category=1, **more):
    mask = np.zeros((10, 10), dtype=bool)
    mask[:, left:right] = True
    return {"category_id": category, "group": "base", "mask": mask, **more}


def test_the_best_prediction_takes_the_object_it_overlaps_most_and_the_next_what_is_left():
    truth = [square(0, 4), square(4, 8), square(0, 8, category=2, group="novel")]
    found = [square(0, 6), square(0, 4), square(0, 2), square(8, 10, category=2)]
    matches = qualitative.overlaps(truth, found)
    assert matches[0] == (0, 4 / 6) and matches[1:] == [None, None, None]  # the second overlaps only what is taken
    assert qualitative.fit(truth, matches) == {"base": pytest.approx(1 / 3), "novel": 0.0}
    truth[2]["mask"] = None
    assert qualitative.fit(truth, matches)["novel"] is None
    assert qualitative.fit([], []) == {}


def test_a_matched_prediction_has_the_shade_of_its_object_and_shades_differ(workspace):
    workspace.everything()
    workspace.validation_set({1: [(1, 0.2, 0), (1, 0.1, 0), (24, 0.1, 0)], 2: [(1, 0.2, 0), (24, 0.3, 0)]})
    figure, _ = drawn("qualitative")
    fills = [[patch.get_facecolor()[:3] for patch in axis.patches if patch.get_fill()] for axis in figure.axes[1:3]]
    assert len(set(fills[0])) == 3 and set(fills[1]) <= set(fills[0])


def test_base_and_novel_shades_differ_in_blue_and_yellow_which_most_colour_blind_people_see():
    lab = {
        group: [cv2.cvtColor(np.float32([[to_rgb(shade)]]), cv2.COLOR_RGB2LAB)[0, 0] for shade in shades]
        for group, shades in style.GROUP_SHADES.items()
    }
    assert max(colour[2] for colour in lab["base"]) < -15 and min(colour[2] for colour in lab["novel"]) > 15
    assert style.GROUP_LINES["base"] != style.GROUP_LINES["novel"]  # and without colours


def test_smoothed_outlines_stay_at_the_mask_and_keep_thin_parts_and_holes():
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:25, 5:25], mask[12:18, 12:18], mask[30, 3:37] = True, False, True
    parts = panels.smooth_outline(mask).to_polygons(closed_only=True)
    y, x = np.mgrid[:40, :40]
    pixels = np.column_stack([x.ravel(), y.ravel()])
    inside = np.logical_xor.reduce([style.plt.Polygon(part).get_path().contains_points(pixels) for part in parts])
    assert (inside.reshape(40, 40) != mask).sum() <= 10  # corners and the ends of the line
    areas = sorted(np.sum(p[:-1, 0] * p[1:, 1] - p[1:, 0] * p[:-1, 1]) / 2 for p in parts)
    assert areas[0] < -30 and areas[1] > 0 and areas[2] > 390  # the hole is wound the other way, so it is not filled
    speck = np.zeros((9, 9), dtype=bool)
    speck[4, 4] = True
    assert len(panels.smooth_outline(speck).vertices) > 3


def test_points_of_the_gap_are_drawn_whole_and_undefined_ones_named(workspace):
    workspace.everything()
    workspace.result("plain", (0.0,))
    content = json.loads(paths.results("toy", "ours").read_text())
    for seed in content["per_seed"]:
        change(seed, None, kind="segm", group="novel", metric="mAP")
    workspace.write(paths.results("toy", "ours"), json.dumps(content))
    axis = drawn("base_novel_gap")[0].axes[0]
    assert axis.get_xlim()[0] < -1 and axis.get_xlim()[1] > 40
    assert written(axis) == ["40.0", "novel undefined"]


def test_categories_say_their_objects_and_why_their_ap_is_undefined(workspace):
    workspace.everything()
    no_masks(workspace)
    no_defined_ap(workspace)
    figure, caption = drawn("category_ap")
    labels = [label.get_text() for axis in figure.axes for label in axis.get_xticklabels()]
    assert labels == ["zebra\nn 2, 0 with mask", "person\nn 2, 0 with mask"]
    assert all(written(axis)[-1] == "undefined" for axis in figure.axes)
    assert "Undefined: no object has a mask (person, zebra)." in caption


def test_an_ap_that_one_run_lacks_is_undefined_and_no_bar(workspace):
    workspace.everything()
    content = json.loads(paths.results("toy", "ours").read_text())
    change(content["per_seed"][1], None, kind="segm", category="person")  # so the mean over the seeds is none
    workspace.write(paths.results("toy", "ours"), json.dumps(content))
    novel = drawn("category_ap")[0].axes[1]
    assert written(novel) == ["undefined"]
    assert [patch.get_height() for patch in novel.patches] == [10.0, 0.0]


def test_an_ap_of_zero_is_written_where_its_bar_has_no_height(workspace):
    workspace.everything()
    workspace.result("plain", (0.0,))
    assert "0.0" in written(drawn("category_ap")[0].axes[1])


def test_loss_curves_begin_and_end_at_a_tick(workspace):
    workspace.everything()
    lines = [json.dumps({"iter": i, "loss": 1.0}) for i in range(10, 201, 10)]
    for run in ("plain", "ours"):
        workspace.log(run, "\n".join(lines))
    axis = drawn("loss_curves")[0].axes[0]
    ticks = axis.get_xticks()
    assert axis.get_xlim() == (0, 200) and {0, 100, 200} <= set(ticks)


def test_drawn_images_have_a_legend_of_their_shapes_and_say_what_they_are(workspace):
    workspace.everything()
    build_figure("qualitative")
    svg = " ".join(paths.figure("toy", "qualitative", "svg").read_text().split())
    assert "Data: generated images, drawn by a program, not COCO" in svg
    figure, _ = drawn("qualitative")
    shapes = [text.get_text() for axis in figure.axes if not axis.axison for text in axis.texts]
    looks = scenes.VERSIONS[experiments.load().dataset("toy")["version"]].looks
    assert sorted(text.replace("\n", " ") for text in shapes) == sorted(looks)


def test_predictions_and_images_of_another_size_are_one_line(workspace):
    workspace.everything()
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(paths.images("toy", "val2017") / "2.png")
    with pytest.raises(ExperimentError, match=r"2.png: 7 x 9 pixels, 20 x 20 in instances_val2017.json"):
        build_figure("qualitative")
    paths.annotations("toy", "val2017").write_text("{")
    with pytest.raises(ExperimentError, match=r"instances_val2017.json: missing or no annotation file"):
        build_figure("qualitative")


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_damaged_picture_counts_as_not_drawn(workspace, content):
    workspace.everything()
    build_figure("loss_curves")
    assert saved_caption("loss_curves", "toy")
    path = paths.figure("toy", "loss_curves", "png")
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    assert saved_caption("loss_curves", "toy") is None


def test_pixels_are_shown_as_they_are_stored(workspace):
    """As training reads them: annotations of the turned picture are refused at download, and here."""
    workspace.everything()
    turned = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    path = paths.images("toy", "val2017") / "1.png"
    turned.save(path, exif=exif)
    assert panels.read_image("toy", {"file_name": "1.png", "width": 20, "height": 10}).shape == (10, 20, 3)
    with pytest.raises(ExperimentError, match="1.png: 20 x 10 pixels, 10 x 20 in instances_val2017.json"):
        panels.read_image("toy", {"file_name": "1.png", "width": 10, "height": 20})


def test_bars_of_two_runs_of_one_method_are_told_apart(workspace):
    declared = experiments.load()
    runs = [{"label": name, "run": "ours"} for name in ("One", "Another")] + [{"label": "Plain", "run": "plain"}]
    first, second, third = figures.series_of({"runs": runs}, declared)
    looks_of = [category_scores._look(series) for series in (first, second, third)]
    assert len({look["facecolor"] for look in looks_of}) == 3  # tints of one colour, and another
    assert [look["hatch"] for look in looks_of] == [None, "////", None]
