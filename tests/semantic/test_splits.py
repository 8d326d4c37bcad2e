"""The splits of the paper as directions: sizes, nesting, and lists (classes by position in the label set)."""

import hashlib

import pytest

from pipeline.datasets.label_maps import drawn
from pipeline.declaration.label_sets import label_set

SIZES = {
    "coco_stuff": {"s1": 43, "s2": 43, "s3": 43, "s4": 43, "s5": 51, "s6": 59, "s7": 68, "s8": 76, "s9": 85},
    "ade20k": {"a1": 38, "a2": 38, "a3": 38, "a4": 38},
    "stuff_and_things": {"s1": 6, "s5": 4, "s6": 5, "s7": 6, "s8": 7, "s9": 8},
}
# First and last novel classes, and the sum of all: a slip in a list of 43 does not keep them.
NOVEL = {
    ("coco_stuff", "s1"): (3, 169, 3464, "f62bfa8ad6978e6d"),
    ("coco_stuff", "s2"): (1, 166, 3612, "4205cd247047bdc0"),
    ("coco_stuff", "s3"): (0, 164, 3030, "4b8678ce4a769b66"),
    ("ade20k", "a1"): (1, 149, 2708, "1ca1bc0577873432"),
    ("ade20k", "a2"): (0, 146, 3020, "3f107fcf1831204b"),
    ("ade20k", "a3"): (0, 144, 3053, "824613d9d859e2f0"),
    ("ade20k", "a4"): (5, 143, 3002, "7975adc3955b28a6"),
}
# The order of which s4 to s9 are the first 43, 51, 59, 68, 76 and 85.
ORDER = (
    170,
    112,
    3,
    26,
    121,
    69,
    50,
    87,
    14,
    13,
    58,
    106,
    17,
    134,
    164,
    161,
    100,
    151,
    24,
    114,
    25,
    92,
    12,
    61,
    102,
    113,
    89,
    110,
    76,
    128,
    149,
    57,
    144,
    137,
    46,
    27,
    83,
    133,
    162,
    37,
    109,
    33,
    40,
    82,
    47,
    0,
    31,
    111,
    66,
    91,
    120,
    136,
    39,
    157,
    163,
    45,
    28,
    131,
    9,
    49,
    19,
    155,
    150,
    1,
    4,
    68,
    130,
    42,
    132,
    75,
    71,
    48,
    7,
    85,
    116,
    96,
    93,
    159,
    139,
    115,
    95,
    105,
    78,
    156,
    54,
)


def novel_of(labels, direction):
    base, novel = labels.base_and_novel(direction)
    assert sorted((*base, *novel)) == sorted(labels.names) and not set(base) & set(novel)
    return [labels.names.index(name) for name in novel]


@pytest.mark.parametrize("name, direction", [(name, each) for name, sizes in SIZES.items() for each in sizes])
def test_so_many_classes_are_novel(name, direction):
    assert len(novel_of(label_set(name), direction)) == SIZES[name][direction]
    assert set(label_set(name).directions) == set(SIZES[name])


@pytest.mark.parametrize("name, direction", NOVEL)
def test_they_are_those_of_the_released_lists(name, direction):
    found = novel_of(label_set(name), direction)
    digest = hashlib.sha256(" ".join(map(str, found)).encode()).hexdigest()[:16]
    assert (found[0], found[-1], sum(found), digest) == NOVEL[name, direction]


@pytest.mark.parametrize("direction", ["s4", "s5", "s6", "s7", "s8", "s9"])
def test_those_of_growing_ratio_are_the_first_of_one_order(direction):
    assert novel_of(label_set("coco_stuff"), direction) == sorted(ORDER[: SIZES["coco_stuff"][direction]])


def test_drawn_ones_are_nested_half_stuff_and_half_things():
    labels = label_set("stuff_and_things")
    assert labels.names == drawn.CLASSES
    found = [set(novel_of(labels, direction)) for direction in ("s5", "s6", "s7", "s8", "s9")]
    assert all(few < many for few, many in zip(found, found[1:], strict=False))
    for novel in (*found, set(novel_of(labels, "s1"))):
        stuff = sum(position < len(drawn.STUFF) for position in novel)
        assert stuff - (len(novel) - stuff) in (0, 1)
        assert {labels.names.index(name) for name in drawn.COMPANIONS} <= novel


def test_classes_stand_at_the_positions_of_the_released_code():
    stuff, ade = label_set("coco_stuff").categories, label_set("ade20k").categories
    assert [category.id for category in stuff[:80]] == [category.id for category in label_set("coco").categories]
    assert [category.id - position for position, category in enumerate(stuff[80:], 80)] == [12] * 91
    assert [category.id for category in ade] == [*range(1, 151)]
    assert (stuff[0].name, stuff[80].name, stuff[170].name, ade[149].name) == ("person", "banner", "wood", "flag")
