import pytest

from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError

from .conftest import COCO_SET

NAMES, GROUPS = COCO_SET.names, COCO_SET.groups


def test_the_eighty_categories_of_coco():
    assert len(NAMES) == len(set(NAMES)) == 80
    ids = [category.id for category in COCO_SET.categories]
    assert ids == sorted(ids)
    assert set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # the gaps of COCO's ids
    assert len({category.supercategory for category in COCO_SET.categories}) == 12


def test_names_and_order_are_those_of_mmdetection():
    from pipeline import compat  # noqa: F401  # isort: skip  before anything that imports torchvision
    from mmdet.datasets import CocoDataset

    assert NAMES == CocoDataset.CLASSES


def test_voc_and_nonvoc_partition_the_categories():
    # Contiguous labels of the VOC categories as every code base of this task lists them.
    labels = [0, 1, 2, 3, 4, 5, 6, 8, 14, 15, 16, 17, 18, 19, 39, 56, 57, 58, 60, 62]
    assert sorted(NAMES.index(name) for name in GROUPS["voc"]) == labels
    assert sorted(GROUPS["voc"] + GROUPS["nonvoc"]) == sorted(NAMES)


def test_a_list_of_names_is_a_group_in_coco_order():
    assert COCO_SET.category_names(["zebra", "cat"]) == ("cat", "zebra")
    assert COCO_SET.base_and_novel({"base": ["zebra"], "novel": ["cat", "car"]}) == (("zebra",), ("car", "cat"))


def test_boxes_only_is_a_direction():
    assert COCO_SET.base_and_novel({"base": "none", "novel": "all"}) == ((), NAMES)


@pytest.mark.parametrize(
    "direction, message",
    [
        ({"base": "voc", "novel": ["cat", "zebra"]}, "categories in both base and novel: cat"),
        (
            {"base": "voc", "novel": "nonvocs"},
            "unknown category group 'nonvocs'; valid: voc, nonvoc, all, none",
        ),
        ({"base": "voc", "novel": ["zebra", "unicorn"]}, "unknown category 'unicorn'"),
        ({"base": "voc", "novel": ["zebra", "zebra"]}, "'zebra' is listed 2 times"),
        ({"base": "none", "novel": "voc"}, "'base' is empty"),
        ({"base": "voc", "novel": []}, "'novel' is empty"),
        ({"base": "voc"}, "exactly the keys 'base' and 'novel'"),
        ({"base": "voc", "novel": "nonvoc", "val": "all"}, "exactly the keys 'base' and 'novel'"),
        ("nonvoc2vok", "unknown direction 'nonvoc2vok' of label set 'coco'; valid: nonvoc2voc, voc2nonvoc, boxes"),
        (None, "exactly the keys 'base' and 'novel'"),
    ],
)
def test_bad_direction(direction, message):
    with pytest.raises(ExperimentError) as caught:
        COCO_SET.base_and_novel(direction)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_label_set_is_refused_with_the_nearest():
    with pytest.raises(
        ExperimentError, match="unknown label set 'cocoa'; valid: ade20k, coco, .*; did you mean 'coco'"
    ):
        label_set("cocoa")


SHAPES = """
title: Shapes
classes:
  - {id: 3, name: disc}
  - {id: 8, name: star, supercategory: pointed}
groups:
  round: [disc]
  pointed: {without: round}
directions:
  round2pointed: {base: round, novel: pointed}
"""


def test_a_label_set_is_a_file(tmp_path):
    (tmp_path / "shapes.yaml").write_text(SHAPES)
    labels = label_set("shapes", tmp_path)
    assert [tuple(each) for each in labels.categories] == [(3, "disc", ""), (8, "star", "pointed")]
    assert labels.base_and_novel("round2pointed") == (("disc",), ("star",)) and len(labels) == 2
    assert labels.groups == {"round": ("disc",), "pointed": ("star",), "all": ("disc", "star"), "none": ()}


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("id: 8", "id: 2", "classes: id 2 of 'star' stands behind 3"),
        ("name: star", "name: disc", "classes: 'disc' is listed 2 times"),
        ("id: 3", "id: three", "classes['three'].id: is 'three'; valid: a whole number"),
        ("title: Shapes", "titel: Shapes", "title"),
        ("[disc]", "[disk]", "unknown category 'disk' of label set 'shapes'; valid: disc, star; did you mean 'disc'?"),
        (
            "without: round",
            "without: rounded",
            "groups.pointed.without: unknown group 'rounded'; valid: round; did you mean 'round'?",
        ),
        ("novel: pointed", "novel: pointy", "unknown category group 'pointy'"),
        ("base: round", "base: pointed", "categories in both base and novel: star"),
        ("round2pointed", "round.pointed", "directions.round.pointed: the name 'round.pointed' is not valid"),
        ("  round: [disc]", "  all: [disc]", "groups.all: every label set has it"),
        ("directions:", "directions: {", "not valid YAML"),
    ],
)
def test_a_bad_label_set_is_refused_in_one_line(old, new, message, tmp_path):
    assert old in SHAPES
    (tmp_path / "shapes.yaml").write_text(SHAPES.replace(old, new, 1))
    with pytest.raises(ExperimentError) as caught:
        label_set("shapes", tmp_path)
    assert str(caught.value).startswith("pipeline/declaration/label_sets/shapes.yaml: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)
