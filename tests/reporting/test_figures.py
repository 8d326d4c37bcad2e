import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from pipeline import experiments, paths
from pipeline.datasets.categories import CATEGORIES
from pipeline.errors import ExperimentError
from pipeline.reporting import examples, figures, panels, style
from pipeline.reporting.figures import build_figure, saved_caption

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
    assert saved_caption(name, "toy").startswith(f"The {name} on toy (generated images, drawn by a program, not COCO). ")
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
    assert colours == {style.METHOD_COLOURS["mask_rcnn"], style.METHOD_COLOURS["contrastmask"]}


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


def test_runs_of_two_directions_cannot_share_base_and_novel(workspace):
    workspace.everything()
    declared = experiments.load()
    object.__setattr__(declared.runs["ours"], "direction", "voc2nonvoc")
    workspace.result("ours", direction="voc2nonvoc")
    with pytest.raises(ExperimentError, match="directions nonvoc2voc, voc2nonvoc"):
        drawn("base_novel_gap")


def test_images_are_the_first_with_a_base_and_a_novel_object_large_enough(workspace):
    base, novel = 24, 1
    workspace.validation_set({
        7: [(base, 0.2, 0), (novel, 0.2, 0)],
        5: [(base, 0.2, 0), (novel, 0.2, 0)],
        4: [(base, 0.2, 0), (novel, 0.2, 1)],  # the novel one is a crowd
        3: [(base, 0.2, 0), (novel, 0.01, 0)],  # the novel one is too small
        2: [(base, 0.2, 0), (base, 0.2, 0)],
        9: [(novel, 0.02, 0), (base, 0.02, 0)],
    })  # fmt: skip
    ground_truth = examples.load_ground_truth("toy")
    assert examples.select_images(ground_truth, GROUPS, 2) == [5, 7]
    assert examples.select_images(ground_truth, GROUPS, 9) == [5, 7, 9]
    assert examples.select_images(ground_truth, GROUPS, 9, shows=("base",)) == [2, 3, 4, 5, 7, 9]
    assert examples.select_images(ground_truth, GROUPS, 9, shows=("novel",)) == [5, 7, 9]


@pytest.mark.parametrize("count, skip, shown, skipped", [
    (2, 0, [3, 5], 0), (2, 1, [5, 7], 1), (1, 2, [7], 2),
    (2, 9, [5, 7], 1),  # too few images to pass over nine
    (4, 1, [3, 5, 7], 0),
])  # fmt: skip
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
    assert caption.endswith("Nothing to draw: no validation image of toy shows both a base and a novel object that "
                            "cover 2% of it.")  # fmt: skip


def test_many_categories_wrap_into_rows(workspace):
    names = [c for c in figures.base_and_novel({"base": "nonvoc", "novel": "voc"})[0]][:25]
    scores = workspace.scores(10.0)
    scores["per_category"]["segm"] = {name: {"AP": 20.0} for name in (*names, "person")}
    workspace.result("plain", per_seed=[{"seed": 0, **scores}])
    ids = {category.name: category.id for category in CATEGORIES}
    workspace.validation_set({1: [(ids[name], 0.1, 0) for name in (*names, "person")]})
    rename_categories(workspace, {id: name for name, id in ids.items()})
    figure, _ = drawn("category_ap")
    assert [len(axis.get_xticklabels()) for axis in figure.axes] == [20, 5, 1]


def test_png_is_a_picture_of_page_width(workspace):
    workspace.everything()
    build_figure("category_ap")
    with Image.open(io.BytesIO(paths.figure("toy", "category_ap", "png").read_bytes())) as image:
        assert image.width == pytest.approx(style.PAGE_WIDTH * 200, rel=0.03)


def test_every_declared_figure_can_be_drawn_and_those_with_priors_are_known():
    declared = experiments.load()
    for name, entry in declared.figures.items():
        assert entry["kind"] in figures.KINDS, name
    assert set(experiments.PRIORS_FIGURES) <= set(figures.KINDS)


def test_every_method_has_a_colour_of_its_own():
    root = Path(__file__).resolve().parents[2]
    methods = experiments.read_yaml(root / "pipeline" / "experiments.yaml")["methods"]
    assert set(methods) <= set(style.METHOD_COLOURS)
    assert len(set(style.METHOD_COLOURS.values())) == len(style.METHOD_COLOURS)


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
