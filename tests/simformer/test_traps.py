"""What the released code gets wrong, each with a test that fails on what it does (numbers of recipes.yaml)."""

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.declaration import config, experiments
from pipeline.methods.simformer import supervision
from pipeline.methods.simformer.losses import complementary_loss
from pipeline.methods.simformer.matching import match
from pipeline.methods.simformer.pairs import PairTable
from pipeline.methods.simformer.points import Cells
from pipeline.methods.simformer.targets import nearest, targets_of
from tests.simformer import small


def targets(maps, labels):
    return targets_of(maps, [torch.tensor(each, dtype=torch.long) for each in labels], small.K)


def test_d1_labels_are_of_the_image_and_of_the_crop_only_where_it_is_asked_for():
    given = [{"type": "LoadScene"}, {"type": "MirrorScene"}]
    assert supervision.steps(given, small.knobs(), "d") == given
    steps = supervision.steps(given, small.knobs("released"), "d")
    assert [step["type"] for step in steps] == ["LoadScene", "CropLabels", "MirrorScene"]
    assert supervision.modules(small.knobs("released")) == (supervision.COMPLETE,)
    # A label of a class that the crop does not show is a target all the same.
    assert targets(torch.zeros(1, 8, 8), [[4]]).labels.tolist() == [[0, 4]]


def test_d2_the_student_compares_the_pixels_that_the_teacher_does():
    """With scores that agree across images and not within one, only the released form is not at its best."""
    pairs = {name: small.model(student=name).panoptic_head.pixel_pairs for name in ("cross_image", "same_image")}
    maps = torch.full((2, 32, 32), 255)
    cells = Cells.of(targets(maps, [[1], [1]]), torch.ones_like(maps, dtype=torch.bool), (8, 8))
    logits = torch.full((2, 9, small.K + 1), -20.0)
    logits[:, 0, 1] = logits[:, 1, 4] = 20.0
    masks = torch.full((2, 9, 8, 8), -20.0)
    masks[0, 0], masks[1, 1] = 20.0, 20.0  # image 0 is of class 1 everywhere, image 1 of class 4
    found = {}
    for name, each in pairs.items():
        each.compared = lambda *_: torch.full((2, 20, 20), -20.0)  # the teacher: all different
        each.distillation = "ce"
        found[name] = float(
            each.distillation_loss(torch.zeros(2, 16, 8, 8), logits, masks, cells, np.array([True]), (1, 4))
        )
    assert found["cross_image"] < 0.1 < found["same_image"]


def test_d3_the_full_model_distils_whatever_the_split():
    for recipe in ("paper", "released"):
        assert small.knobs(recipe).distillation_weight == 0.1


def test_d4_an_image_with_one_novel_class_is_paired_by_it():
    novel = np.zeros((4, 3), dtype=bool)
    novel[[0, 1], 0] = novel[2, [0, 1]] = True
    table = PairTable(np.ones((4, 1), dtype=bool), novel)
    draws = {
        rule: {table.draw(0, rule, 0.01, np.random.default_rng(k)) for k in range(60)}
        for rule in ("one_common", "deconfounded")
    }
    assert draws["one_common"] == {1, 2} and draws["deconfounded"] == {1, 2, 3}
    assert methods.method("simformer").preset("paper").pair_draw == "one_common"


def test_d6_rows_have_the_seed_of_the_text_and_every_one_can_be_trained():
    """The released configurations have seed 6, and fifteen of them cannot be read."""
    declared = experiments.load()
    assert methods.method("simformer").pinned()["seeds"] == [0]
    for place in ("scenes", "coco_stuff_10k"):
        names = [name for name, run in declared.runs.items() if run.method == "simformer"]
        for name in experiments.made(declared, names, place):
            training = config.resolve(name, place, 0, declared)
            assert training.direction == declared.runs[name].direction and training.data["train"]


def test_classes_are_told_apart_and_nothing_depends_on_their_numbers():
    """The released pair loss compares numbers of classes with those of the data set, which happen to be the same."""
    order = torch.tensor([5, 2, 6, 0, 1, 4, 3])  # where each class goes
    renumbered = torch.full((256,), 255)
    renumbered[: small.K] = order
    maps, labels = small.pair_of_maps()
    maps = torch.where(maps == 3, 2, maps)  # one common base class, so that which is drawn is no matter
    drawn = {name: torch.rand(2, 16, 16) for name in ("same", "other", "novel")} | {"class": torch.rand(1, small.K)}
    embedding, masks, logits = torch.randn(2, 16, 16, 16), torch.randn(2, 9, 16, 16), torch.randn(2, 9, small.K + 1)
    moved = logits.clone()
    moved[..., order] = logits[..., : small.K]
    pairs, found = small.model().panoptic_head.pixel_pairs, []
    pairs.numbers = lambda name, shape, device: drawn[name]
    for number, scores in ((torch.arange(256), logits), (renumbered, moved)):
        pairs.balance.counts.fill_(1)
        of = targets(number[maps], [number[torch.tensor(each)].tolist() for each in labels])
        novel = tuple(number[torch.tensor(small.NOVEL)].tolist())
        inside = torch.ones_like(maps, dtype=torch.bool)
        losses = pairs.loss(embedding, scores, masks, of, inside, novel)
        (matched,) = match(scores[None], masks[None], of, 20.0, 1.0)
        back = {int(new): old for old, new in enumerate(number[: small.K])}
        labels_of = of.labels[matched.image, matched.target].tolist()
        given_to = zip(matched.image.tolist(), matched.query.tolist(), labels_of, strict=True)
        found.append((losses, {(image, query, back[label]) for image, query, label in given_to}))
    (ours, matched), (theirs, moved_matched) = found
    assert matched == moved_matched
    for name, value in ours.items():
        assert float(theirs[name]) == pytest.approx(float(value), rel=1e-5) and value != 0


def test_d7_a_mask_that_vanishes_at_stride_4_does_not_move_the_targets():
    maps = torch.full((1, 32, 32), 255)
    maps[0, :16], maps[0, 16:], maps[0, 1, 1] = 2, 5, 0  # class 0 is a pixel that stride 4 passes over
    of = targets(maps, [[]])
    logits, masks = torch.zeros(1, 1, 4, small.K + 1), torch.full((1, 1, 4, 8, 8), -6.0)
    logits[0, 0, 0, 0] = 5
    masks[0, 0, 1, :4], masks[0, 0, 2, 4:] = 6, 6
    (matched,) = match(logits, masks, of, 20.0, 1.0)
    assert dict(zip(matched.query.tolist(), of.labels[0][matched.target].tolist(), strict=True)) == {0: 0, 1: 2, 2: 5}


def test_d7b_a_query_that_is_nowhere_costs_a_number():
    maps = torch.full((1, 32, 32), 255)
    maps[0, :16] = 2
    masks = torch.randn(1, 1, 4, 8, 8)
    masks[0, 0, 3] = -500.0
    (matched,) = match(torch.randn(1, 1, 4, small.K + 1), masks, targets(maps, [[4]]), 20.0, 1.0)
    assert len(matched.query) == 2


def test_d8_a_crop_without_a_pixel_that_is_not_base_has_no_complementary_loss():
    maps = torch.full((2, 32, 32), 2)
    maps[1, :, 16:] = 255
    of, inside = targets(maps, [[4], []]), torch.ones(2, 32, 32, dtype=torch.bool)
    logits, masks = torch.randn(1, 2, 4, small.K + 1), torch.randn(1, 2, 4, 8, 8, requires_grad=True)
    (matched,) = match(logits, masks, of, 20.0, 1.0)
    loss = complementary_loss(masks[0], matched, of, inside, torch.tensor(-2.9444), 20.0, 1.0)
    loss.backward()
    assert loss == 0 and not masks.grad.any()
    masks = masks.detach()
    # Padding is no such pixel, and what is not counted does not thin out what is.
    both = targets(maps, [[4], [4]])
    (matched,) = match(logits, masks, both, 20.0, 1.0)
    together = complementary_loss(masks[0], matched, both, inside, torch.tensor(-2.9444), 20.0, 1.0)
    alone = targets(maps[1:], [[4]])
    (matched,) = match(logits[:, 1:], masks[:, 1:], alone, 20.0, 1.0)
    second = complementary_loss(masks[0, 1:], matched, alone, inside[1:], torch.tensor(-2.9444), 20.0, 1.0)
    assert float(together) == pytest.approx(float(second), rel=1e-5) and second > 0


def test_d10_the_teacher_leaves_the_running_statistics_alone():
    def statistics(**changed):
        built = small.model(**changed)
        maps, labels = small.pair_of_maps()
        built.forward_train(**small.batch(maps, labels))
        return built.panoptic_head.pixel_pairs.net.blocks[0].norm1

    ours, without = statistics(), statistics(distillation_weight=0.0)
    assert torch.equal(ours.running_mean, without.running_mean) and ours.num_batches_tracked == 1
    assert statistics(teacher_statistics=True).num_batches_tracked == 2


def test_d11_the_class_balance_does_not_count_hidden_pixels():
    pairs = {which: small.model(balance_pairs=which).panoptic_head.pixel_pairs for which in ("counted", "all")}
    same = torch.ones(2, 10, 10, dtype=torch.bool)
    counted = torch.zeros(2, 10, 10, dtype=torch.bool)
    counted[:, :5] = True
    for each in pairs.values():
        each.count(same, counted)
    assert pairs["counted"].balance.counts[-1].tolist() == [4, 0] and pairs["all"].balance.counts[-1].tolist() == [8, 0]


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_d13_any_even_number_of_images_is_a_batch(pairs):
    built = small.model()
    maps, labels = small.pair_of_maps()
    losses = built.forward_train(**small.batch(maps.repeat(pairs, 1, 1), labels * pairs))
    assert torch.isfinite(small.total(losses))


def test_d13_images_pairs_are_worked_on_each_by_itself():
    """So the losses of several pairs are means of those that processes with a pair each would have."""
    built = small.model(balance_pairs="counted")
    head, maps = built.panoptic_head, small.pair_of_maps()[0]
    four = torch.cat([maps, maps.flip(2)])
    embedding, logits, masks = torch.randn(4, 16, 16, 16), torch.randn(4, 9, small.K + 1), torch.randn(4, 9, 16, 16)
    inside = torch.ones_like(four, dtype=torch.bool)
    pairs = head.pixel_pairs
    drawn = {name: torch.rand(4, 16, 16) for name in ("same", "other", "novel")} | {"class": torch.rand(2, small.K)}

    def losses(images):
        pairs.numbers = lambda name, shape, device: drawn[name][images if name != "class" else images[::2] // 2]
        pairs.balance.counts.fill_(1)
        pairs.count = lambda *_: None
        of = targets(four[images], [[4], [4], [4, 1], [4]][images[0] : images[0] + len(images)])
        return pairs.loss(embedding[images], logits[images], masks[images], of, inside[images], small.NOVEL)

    together, one, two = (losses(torch.tensor(images)) for images in ([0, 1, 2, 3], [0, 1], [2, 3]))
    for name, value in together.items():
        assert float(value) == pytest.approx((float(one[name]) + float(two[name])) / 2, rel=1e-5)


def test_the_similarity_net_goes_backward_on_current_torch():
    net = small.model().panoptic_head.pixel_pairs.net
    x = torch.randn(30, 32, requires_grad=True)
    net(x).sum().backward()
    assert x.grad.any()


def test_distillation_does_not_need_the_similarity_loss():
    built = small.model(similarity_weight=0.0)
    maps, labels = small.pair_of_maps()
    losses = built.forward_train(**small.batch(maps, labels))
    assert losses["loss_similarity"] == 0 and losses["loss_distillation"] != 0


def test_label_maps_shrink_to_the_pixel_up_and_to_the_left():
    maps = torch.arange(64 * 64).view(1, 64, 64)
    assert torch.equal(nearest(maps, (16, 16)), maps[:, ::4, ::4])


def test_more_classes_than_queries_and_more_points_than_cells_are_no_error():
    built = small.model(points=500)
    maps = torch.arange(64).div(12, rounding_mode="floor").expand(2, 64, 64).contiguous()  # all base classes there are
    built.panoptic_head.num_queries = 3
    built.panoptic_head.query_embed = torch.nn.Embedding(3, 16)
    losses = built.forward_train(**small.batch(maps, [[6], [6]]))
    assert torch.isfinite(small.total(losses))
