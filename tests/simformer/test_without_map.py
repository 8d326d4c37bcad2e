"""Images of one's own that have labels and no map: their classes are learned, no pixel of them counts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.datasets.label_maps.packs import Pack, Writer
from pipeline.methods.simformer import METHOD, losses, without_map  # noqa: F401  # registers its types
from pipeline.methods.simformer.detector import inside
from pipeline.methods.simformer.pairs import PairTable
from pipeline.methods.simformer.targets import targets_of
from pipeline.tasks.semantic import steps
from pipeline.tasks.semantic.data import LabelMaps

IMAGES = {"train_scales": None, "test_scale": None, "crop_size": [32, 32], "size_divisor": 32}
SHOWN = ([[0, 1], [2]], [[0], [2]], [[1], [2]], [[], [2]], [[0], []])  # base and novel classes; the fourth has no map
ALONE = 3


@pytest.fixture
def dataset(tmp_path):
    """A function that gives five images through the steps of a knob."""
    import cv2

    with open(tmp_path / "train.pack", "wb") as file:
        writer = Writer(file, "train.pack")
        for position, (base, novel) in enumerate(SHOWN):
            label_map = np.full((32, 32), 255, np.uint8)
            for at, label in enumerate(base):
                label_map[8 * at : 8 * at + 8] = label
            facts = {"unmapped": True} if position == ALONE else {}
            writer.add(f"{position}.png", label_map, base=base, novel=novel, **facts)
            cv2.imwrite(str(tmp_path / f"{position}.png"), np.full((32, 32, 3), 40 * position, np.uint8))
        text = writer.index(classes=["a", "b", "c"], base=[0, 1], novel=[2])
    (tmp_path / "train.json").write_text(text)

    def through(**knobs):
        chosen = METHOD.preset("paper", without_map="labels", **knobs)
        given = METHOD.steps(steps.steps(IMAGES)["train"], chosen, "any")
        return LabelMaps(Pack(tmp_path / "train.json"), tmp_path, ("a", "b", "c"), given)

    return through


def test_its_labels_stay_and_its_pixels_are_as_padding(dataset):
    items = [dataset(pairs="none")[position, 0] for position in range(len(SHOWN))]
    metas = [item["img_metas"].data for item in items]
    known = inside(metas, torch.zeros(len(SHOWN), 3, 32, 32))
    assert [bool(each.any()) for each in known] == [position != ALONE for position in range(len(SHOWN))]
    assert [item["novel_labels"].data.tolist() for item in items] == [novel for _, novel in SHOWN]


def test_it_has_no_part_in_the_complementary_loss(dataset):
    items = [dataset(pairs="none")[position, 0] for position in (0, ALONE)]
    maps = torch.stack([item["gt_semantic_seg"].data for item in items])
    targets = targets_of(maps, [item["novel_labels"].data for item in items], 3)
    known = inside([item["img_metas"].data for item in items], torch.zeros(2, 3, 32, 32))
    matched = SimpleNamespace(novel_images=torch.tensor([0, 1]), novel_queries=torch.tensor([[0], [0]]))
    masks = torch.randn(2, 1, 8, 8, requires_grad=True)
    losses.complementary_loss(masks, matched, targets, known, torch.tensor(-3.0), 20.0, 1.0).backward()
    assert masks.grad[0].abs().sum() > 0 and masks.grad[1].abs().sum() == 0


def test_it_is_its_own_reference_and_nobody_elses(dataset):
    data = dataset(pairs="cross")
    drawn = {position: set() for position in range(len(SHOWN))}
    for position in drawn:
        for seed in range(12):
            first, second = data[position, seed]["img_metas"].data
            assert first["position"] == position
            drawn[position].add(second["position"])
    assert drawn[ALONE] == {ALONE}
    assert all(ALONE not in found for position, found in drawn.items() if position != ALONE) and len(drawn[0]) > 1


@pytest.mark.parametrize("rule", ["one_common", "deconfounded", "random", "common_base", "novel_list"])
def test_no_rule_pairs_it_with_another_image(rule):
    """An image of two novel classes is there too: its list of the others would have the one without map."""
    base = np.array([[1, 0], [1, 0], [0, 0], [0, 1]], bool)
    novel = np.array([[1, 1], [1, 0], [1, 0], [0, 1]], bool)
    table = PairTable(base, novel, usable=[True, True, False, True])
    drawn = {table.draw(0, rule, 0.01, np.random.default_rng(seed)) for seed in range(40)}
    assert drawn and 2 not in drawn


def test_queries_without_a_target_are_no_evidence_against_what_it_may_show(dataset):
    items = [dataset(pairs="none")[position, 0] for position in (0, ALONE)]
    targets = targets_of(
        torch.stack([item["gt_semantic_seg"].data for item in items]), [item["novel_labels"].data for item in items], 3
    )
    known = inside([item["img_metas"].data for item in items], torch.zeros(2, 3, 32, 32)).flatten(1).any(1)
    matched = SimpleNamespace(
        image=torch.tensor([0, 0, 0, 1]), query=torch.tensor([0, 1, 2, 0]), target=torch.tensor([0, 1, 2, 0])
    )
    logits = torch.zeros(2, 5, 4, requires_grad=True)
    losses.class_loss(logits, matched, targets, torch.ones(4), known).backward()
    moved = logits.grad.abs().sum(-1) > 0
    assert moved[0].all() and moved[1].tolist() == [True, False, False, False, False]


def test_without_the_knob_steps_are_those_of_before():
    knobs = METHOD.preset("paper", pairs="none")
    given = steps.steps(IMAGES)["train"]
    assert knobs.without_map == "none" and METHOD.steps(given, knobs, "any") is given
