"""Figures of CAM, partition and keys, from a made-up file of stage `look_inside`."""

import zipfile

import numpy as np
import pytest
from matplotlib.colors import to_rgb, to_rgba

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError, NothingToShow
from pipeline.reporting import roi_cells, style, transfer
from pipeline.reporting.figures import build_figure, saved_caption

from .test_figures import declare, drawn, empty_masks, no_masks, odd_labels

SIZE = 4


@pytest.fixture
def looked_into(workspace):
    """Three objects of two images, the last base one left out of the loss; and two figures that show them."""
    workspace.everything()
    declare("partition", "partition", objects=2)
    declare("keys", "keys", objects=2)
    write(workspace)
    return workspace


def write(workspace, **changes):
    sides = np.zeros((4, 2, SIZE, SIZE), dtype=bool)
    sides[:, 0, 1:3, 1:3] = True
    sides[:, 1, 0] = True
    candidates = sides[:, [0, 1, 0, 1]]
    keys = candidates.copy()
    keys[..., 2:] = False
    arrays = {
        "image_ids": np.array([1, 1, 2, 2]),
        "annotation_ids": np.array([1, 2, 3, 4]),
        "boxes": np.array([[2, 2, 11, 11], [2, 2, 8, 8], [2, 2, 11, 11], [2, 2, 13, 13]], dtype=np.float32),
        "labels": np.array([1, 24, 1, 24]),
        "is_novel": np.array([True, False, True, False]),
        "from_mask": np.array([False, True, False, True]),
        "kept": np.array([True, True, True, False]),
        "has_prior": np.ones(4, dtype=bool),
        "cams": np.linspace(0, 1, 4 * SIZE**2, dtype=np.float32).reshape(4, SIZE, SIZE),
        "sides": sides,
        "candidates": candidates,
        "keys": keys,
    } | changes
    path = paths.look_inside("toy", "ours")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def test_cells_are_coloured_by_their_side():
    sides = np.zeros((2, 2, 2), dtype=bool)
    sides[0, 0, 0] = sides[1, 0, 1] = True
    colours = roi_cells.partition_colours(sides)
    assert colours[0, 0].tolist() == list(to_rgb(style.SIDE_COLOURS["foreground"]))
    assert colours[0, 1].tolist() == list(to_rgb(style.SIDE_COLOURS["background"]))
    assert colours[1, 0].tolist() == colours[1, 1].tolist() == list(to_rgb(style.SIDE_COLOURS["unassigned"]))


def test_candidates_are_pale_sampled_keys_full_and_the_rest_transparent():
    candidates = np.array([[[True, True, False]], [[False, False, True]]])
    keys = np.array([[[True, False, False]], [[False, False, False]]])
    sampled, positive, negative = roi_cells.key_colours(candidates, keys)[0]
    assert tuple(sampled) == to_rgba(style.SIDE_COLOURS["foreground"])
    assert tuple(positive) == to_rgba(style.SIDE_COLOURS["foreground"], roi_cells.CANDIDATE)
    assert tuple(negative) == to_rgba(style.SIDE_COLOURS["background"], roi_cells.CANDIDATE)
    assert roi_cells.key_colours(candidates & False, keys & False).max() == 0


def test_the_three_sides_differ_in_lightness_too():
    """Told apart in grey, so with any colour vision."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    lightness = sorted(weights @ np.array(to_rgb(colour)) for colour in style.SIDE_COLOURS.values())
    assert lightness[1] - lightness[0] > 0.3 and lightness[2] - lightness[1] > 0.2


def test_base_objects_stand_left_and_novel_ones_right(looked_into):
    figure, caption = drawn("partition")
    assert [text.get_text() for text in figure.texts] == [
        "base: partition from the ground-truth mask",
        "novel: partition from the CAM",
    ]
    labels = [axis.get_ylabel() for axis in figure.axes[:12]]
    assert labels == ["zebra", "", "", "person", "", ""] * 2
    assert "images 1, 2 and 1, 2." in caption and "4×4 cells" in caption
    partition = figure.axes[2].images[-1].get_array()
    np.testing.assert_array_equal(
        partition, roi_cells.partition_colours(np.load(paths.look_inside("toy", "ours"))["sides"][1])
    )
    assert figure.axes[2].images[-1].get_extent() == [2, 8, 8, 2]  # the box of the object


def test_objects_that_take_no_part_have_no_keys_to_show(looked_into):
    figure, caption = drawn("keys")
    assert [axis.get_ylabel() for axis in figure.axes[:9:3]] == ["zebra", "person", ""]
    assert not figure.axes[6].axison and not figure.axes[6].images
    assert "3 of 4 objects (75%) have enough candidates" in caption
    frames = [len(collection.get_paths()) for collection in figure.axes[1].collections]
    assert frames[0] == 4  # two positive and two negative keys are sampled


def test_a_run_without_priors_is_named_with_the_command_that_makes_them(looked_into):
    paths.look_inside("toy", "ours").unlink()
    for name in ("partition", "keys"):
        build_figure(name)
        assert "run `dvc repro look_inside@ours`" in saved_caption(name, "toy")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"keys": np.zeros((4, 4, 3, 3), dtype=bool)}, r"keys has the shape \(4, 4, 3, 3\), cams \(4, 4, 4\)"),
        ({"labels": np.zeros(3)}, r"labels has the shape \(3,\)"),
        ({"cams": np.array([None])}, "Object arrays cannot be loaded"),
    ],
)
def test_a_file_that_cannot_be_right_is_named(looked_into, changes, message):
    write(looked_into, **changes)
    with pytest.raises(
        ExperimentError, match=rf"toy/look_inside/ours.npz: .*{message}.*run `dvc repro look_inside@ours`"
    ):
        roi_cells.read("toy", experiments.load().runs["ours"])


def test_a_truncated_file_is_named(looked_into):
    path = paths.look_inside("toy", "ours")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ExperimentError, match="ours.npz: .*remove the file"):
        drawn("keys")


def test_damage_inside_a_compressed_file_is_named(looked_into):
    path = paths.look_inside("toy", "ours")
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez_compressed(path, **arrays)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("cams.npy")
    content = bytearray(path.read_bytes())
    names = content[member.header_offset + 26 : member.header_offset + 30]
    begin = member.header_offset + 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
    content[begin : begin + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(ExperimentError, match="ours.npz: .*remove the file and run `dvc repro look_inside@ours`"):
        roi_cells.read("toy", experiments.load().runs["ours"])


def test_a_group_without_an_object_is_said_to_have_none(looked_into):
    write(looked_into, is_novel=np.zeros(4, dtype=bool))
    build_figure("partition")
    assert "Nothing to draw: no novel object to show among the 4" in saved_caption("partition", "toy")


def test_crops_stay_inside_the_image_where_they_fit():
    picture, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), dtype=bool)
    corner = roi_cells.Crop(picture, (0, 0, 10, 5), mask, "base")
    assert (corner.left, corner.top, corner.right, corner.bottom) == (0, 0, 13, 13)
    tall = roi_cells.Crop(picture, (5, 0, 10, 20), mask, "base")
    assert (tall.top, tall.bottom) == (-3, 23)  # as high as the image: centred, with white above and below
    assert (tall.left, tall.right) == (0, 26) and tall.picture.shape == (20, 26, 3)


@pytest.mark.parametrize("change", [no_masks, empty_masks, odd_labels], ids=lambda change: change.__name__)
def test_objects_without_a_mask_and_odd_labels_are_drawn(looked_into, monkeypatch, change):
    monkeypatch.setattr(style, "EXTENSIONS", ("png",))
    change(looked_into)
    for name in ("partition", "keys"):
        build_figure(name)
        assert "base and" in saved_caption(name, "toy")


def test_objects_that_the_validation_set_has_no_more_are_one_line(looked_into):
    write(looked_into, annotation_ids=np.array([1, 2, 3, 99]))
    with pytest.raises(ExperimentError, match="shows annotation 99, which the validation set has no more; run `dvc"):
        drawn("partition")


@pytest.mark.parametrize("name", ["partition", "keys"])
def test_same_input_gives_the_same_bytes(looked_into, name):
    build_figure(name)
    first = {e: paths.figure("toy", name, e).read_bytes() for e in style.EXTENSIONS}
    build_figure(name)
    assert {e: paths.figure("toy", name, e).read_bytes() for e in style.EXTENSIONS} == first


def test_a_shape_stands_beside_the_activation_it_is_made_of(workspace):
    workspace.everything()
    write(workspace)
    path = paths.look_inside("toy", "ours")
    with np.load(path) as archive:
        kept = {name: archive[name] for name in roi_cells.OF_ANY}
    maps = np.random.default_rng(0).random((3, 4, SIZE, SIZE), dtype=np.float32)
    np.savez(path, **kept, **dict(zip(roi_cells.SHAPES, maps, strict=True)))
    run = experiments.load().runs["ours"]
    with style.paper_style():
        figure, caption = roi_cells.draw_shapes("toy", roi_cells.read_shapes("toy", run), 2)
    assert [text.get_text() for text in figure.texts] == ["base objects", "novel objects"]
    assert [axis.get_ylabel() for axis in figure.axes[:12]] == ["zebra", "", "", "person", "", ""] * 2
    held = maps[2][~kept["is_novel"]].mean()
    assert "on the 4×4 cells" in caption and f"keeps {held:.0%} of its activation in base objects" in caption
    for axis, expected in zip(figure.axes[1:3], maps[:2, 1], strict=True):
        np.testing.assert_allclose(
            axis.images[-1].get_array(), style.plt.get_cmap(style.CAM_MAP)(expected)[..., :3], atol=1e-6
        )
    with pytest.raises(ExperimentError, match="is not a file in the archive.*remove the file and run"):
        roi_cells.read("toy", run)  # the inside of another method


def test_maps_of_any_size_stand_in_their_frames(workspace):
    workspace.everything()
    write(workspace)
    path, random = paths.look_inside("toy", "ours"), np.random.default_rng(0)
    with np.load(path) as archive:
        kept = {name: archive[name] for name in roi_cells.OF_ANY}
    coarse, fine = (random.random((4, size, size), dtype=np.float32) for size in (3, 6))
    frames = np.tile(np.float32([-0.5, 0, 1.5, 1]), (4, 1))
    np.savez(path, **kept, coarse=coarse, fine=fine, frames=frames)
    run, shown = experiments.load().runs["ours"], {"coarse": ("c", "c"), "fine": ("f", "f")}
    maps = (("coarse", "Coarse", "a small one"), ("fine", "Fine", "a large one"))
    with style.paper_style():
        figure, caption = roi_cells.draw_maps("toy", roi_cells.read("toy", run, roi_cells.OF_ANY, shown), 2, maps)
    assert [text.get_text() for text in figure.texts] == ["base objects", "novel objects"]
    assert "Coarse: a small one (3×3 cells); Fine: a large one (6×6 cells)" in caption
    x1, y1, x2, y2 = kept["boxes"][1]  # the first base object
    expected = [x1 - (x2 - x1) / 2, x2 + (x2 - x1) / 2, y2, y1]
    for axis, values in zip(figure.axes[1:3], (coarse, fine), strict=True):
        assert axis.images[-1].get_extent() == expected
        colours = style.plt.get_cmap(style.CAM_MAP)(values[1])[..., :3]
        np.testing.assert_allclose(axis.images[-1].get_array(), colours, atol=1e-6)
    np.savez(path, **kept, coarse=coarse, fine=fine[..., :5])
    with pytest.raises(ExperimentError, match=r"fine has the shape \(4, 6, 5\)"):
        roi_cells.read("toy", run, roi_cells.OF_ANY, shown)


def test_transferred_weights_are_compared_category_by_category(workspace):
    workspace.everything()
    write(workspace)
    path = paths.look_inside("toy", "ours")
    with np.load(path) as archive:
        kept = {name: archive[name] for name in roi_cells.OF_ANY}
    weights = np.float32([[3, 0, 0], [3, 4, 0], [3, 0, 0], [3, 4, 0]])  # of the novel category, of the base one
    np.savez(path, **kept, weights=weights)
    with style.paper_style():
        figure, caption = transfer.draw("toy", transfer.read("toy", experiments.load().runs["ours"]))
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["zebra", "person"]  # the base one first
    np.testing.assert_allclose(axis.images[0].get_array(), [[1, 0.6], [0.6, 1]], atol=1e-6)
    assert "(3 numbers a category)" in caption and "0.60 between a base and a novel one" in caption
    np.savez(path, **kept | {"labels": np.ones(4, int)}, weights=weights)
    with pytest.raises(NothingToShow, match="there are no two to compare"):
        transfer.draw("toy", transfer.read("toy", experiments.load().runs["ours"]))
