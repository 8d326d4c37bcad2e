import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from pycocotools.coco import COCO

from pipeline import experiments, paths
from pipeline.errors import ExperimentError
from pipeline.reporting import figures, qualitative, style
from pipeline.reporting.figures import build_figure, saved_caption

GROUPS = {"base": ("zebra",), "novel": ("person",)}
ALL_KINDS = ("loss_curves", "qualitative", "category_ap", "base_novel_gap")


def drawn(name):
    """The matplotlib figure before it is saved."""
    declared, dataset = experiments.load(), experiments.chosen_dataset()
    entry = declared.figures[name]
    request = figures.Request(name, entry, dataset, declared, figures.series_of(entry, declared))
    with style.paper_style():
        return figures.KINDS[name](request)


def digests(name):
    return {e: hashlib.sha256(paths.figure(name, e).read_bytes()).hexdigest() for e in style.EXTENSIONS}


@pytest.mark.parametrize("name", ["loss_curves", "qualitative"])
def test_same_input_gives_the_same_bytes(workspace, name):
    workspace.everything()
    build_figure(name)
    first = digests(name)
    build_figure(name)
    assert digests(name) == first
    assert saved_caption(name, "toy").startswith(f"The {name} on toy. ")
    assert saved_caption(name, "coco2017") is None


@pytest.mark.parametrize("name", ALL_KINDS)
def test_a_missing_run_is_left_out_and_named(workspace, name):
    workspace.everything()
    for path in (paths.results("toy", "ours"), paths.log("toy", "ours", 0)):
        path.unlink()
    assert "Not run on toy: ours (`dvc repro evaluate@ours`)." in drawn(name)[1]


@pytest.mark.parametrize("name", ["loss_curves", "category_ap", "base_novel_gap"])
def test_a_figure_without_any_run_is_an_error_and_not_a_file(workspace, name):
    with pytest.raises(
        ExperimentError, match="none of its runs has data on dataset 'toy'; run `dvc repro evaluate@plain`"
    ):
        build_figure(name)
    assert not list(paths.figure(name, "png").parent.parent.rglob("*.png"))


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
    assert shown == {"base categories": ["zebra"], "novel categories": ["person"]}
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
    ground_truth = COCO(str(paths.annotations("toy", "val2017")))
    assert qualitative.select_images(ground_truth, GROUPS, 2) == [5, 7]
    assert qualitative.select_images(ground_truth, GROUPS, 9) == [5, 7, 9]


def test_base_and_novel_masks_differ_in_colour_and_low_scores_are_not_drawn(workspace):
    workspace.everything()
    workspace.predictions("ours", [1, 2], score=0.49)
    figure, caption = drawn("qualitative")
    assert caption.startswith("The first 2 validation images by image id") and ": 1, 2." in caption
    _, truth, plain, ours = figure.axes[:4]
    assert [axis.get_title() for axis in figure.axes[:4]] == ["Image", "Ground truth", "Baseline", "Ours"]
    assert (
        len(truth.collections) == len(plain.collections) == 2 * 2
    )  # an outline and its halo for each object
    assert len(ours.collections) == 0
    outlines = {tuple(np.round(c.get_edgecolor()[0][:3], 4)) for c in truth.collections}
    expected = {tuple(np.round(to_rgb(colour), 4)) for colour in ("white", *style.GROUP_COLOURS.values())}
    assert outlines == expected


def test_missing_image_is_named(workspace):
    workspace.everything()
    (paths.images("toy", "val2017") / "2.png").unlink()
    with pytest.raises(ExperimentError, match=r"2.png: listed in instances_val2017.json but missing"):
        build_figure("qualitative")


def test_no_image_fits_the_rule(workspace):
    workspace.everything()
    workspace.validation_set({1: [(1, 0.2, 0)]})
    with pytest.raises(ExperimentError, match="no validation image shows both a base and a novel object"):
        build_figure("qualitative")


def test_many_categories_wrap_into_rows(workspace):
    names = [c for c in figures.base_and_novel({"base": "nonvoc", "novel": "voc"})[0]][:25]
    scores = workspace.scores(10.0)
    scores["per_category"]["segm"] = {name: {"AP": 20.0} for name in (*names, "person")}
    workspace.result("plain", per_seed=[{"seed": 0, **scores}])
    figure, _ = drawn("category_ap")
    assert [len(axis.get_xticklabels()) for axis in figure.axes] == [20, 5, 1]


def test_png_is_a_picture_of_page_width(workspace):
    workspace.everything()
    build_figure("category_ap")
    with Image.open(io.BytesIO(paths.figure("category_ap", "png").read_bytes())) as image:
        assert image.width == pytest.approx(style.PAGE_WIDTH * 200, rel=0.03)


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
