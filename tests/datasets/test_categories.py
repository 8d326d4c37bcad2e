import pytest

from pipeline.declaration.categories import CATEGORIES, GROUPS, NAMES, base_and_novel, category_names
from pipeline.errors import ExperimentError


def test_the_eighty_categories_of_coco():
    assert len(NAMES) == len(set(NAMES)) == 80
    ids = [category.id for category in CATEGORIES]
    assert ids == sorted(ids)
    assert set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # the gaps of COCO's ids
    assert len({category.supercategory for category in CATEGORIES}) == 12


def test_names_and_order_are_those_of_mmdetection():
    from pipeline.tasks.instances.packed_coco import PartialCocoDataset

    assert NAMES == PartialCocoDataset.CLASSES


def test_voc_and_nonvoc_partition_the_categories():
    # Contiguous labels of the VOC categories as every code base of this task lists them.
    labels = [0, 1, 2, 3, 4, 5, 6, 8, 14, 15, 16, 17, 18, 19, 39, 56, 57, 58, 60, 62]
    assert sorted(NAMES.index(name) for name in GROUPS["voc"]) == labels
    assert sorted(GROUPS["voc"] + GROUPS["nonvoc"]) == sorted(NAMES)


def test_a_list_of_names_is_a_group_in_coco_order():
    assert category_names(["zebra", "cat"]) == ("cat", "zebra")
    assert base_and_novel({"base": ["zebra"], "novel": ["cat", "car"]}) == (("zebra",), ("car", "cat"))


def test_boxes_only_is_a_direction():
    assert base_and_novel({"base": "none", "novel": "all"}) == ((), NAMES)


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
        (None, "exactly the keys 'base' and 'novel'"),
    ],
)
def test_bad_direction(direction, message):
    with pytest.raises(ExperimentError) as caught:
        base_and_novel(direction)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
