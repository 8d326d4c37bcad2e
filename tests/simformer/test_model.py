"""The model as a whole: nothing there, nothing hidden, lower precision, inference, initial weights."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import methods
from pipeline.declaration import experiments
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.inference import models
from pipeline.methods.simformer import detector, pixel_pairs, released_checkpoint
from pipeline.methods.simformer import head as head_module
from pipeline.methods.simformer.detector import original
from pipeline.methods.simformer.sizes import Sizes
from pipeline.trained import importing, loading, naming, reading
from pipeline.training.precision import use_autocast
from pipeline.training.progress import Progress
from tests.simformer import small

NOTHING = torch.full((2, 64, 64), 255)
BASE = torch.full((2, 64, 64), 3)


@pytest.mark.parametrize(
    "maps, labels",
    [
        pytest.param(NOTHING, [[], []], id="no class at all"),
        pytest.param(NOTHING, [[4], [4, 6]], id="novel classes alone"),
        pytest.param(BASE, [[], []], id="one base class everywhere"),
        pytest.param(BASE, [[4], [4]], id="no hidden pixel"),
        pytest.param(torch.cat([NOTHING[:1], BASE[:1]]), [[1], []], id="nothing in common"),
    ],
)
def test_losses_are_finite_and_attached_whatever_a_batch_lacks(maps, labels):
    built = small.model()
    losses = built.forward_train(**small.batch(maps, labels))
    assert {"loss_cls", "loss_mask", "d0.loss_complementary", "loss_similarity", "loss_distillation"} <= losses.keys()
    assert all(torch.isfinite(value) and value.requires_grad for value in losses.values())
    small.total(losses).backward()
    assert all(torch.isfinite(grad).all() for grad in small.gradients(built).values())


def test_one_image_without_pairs():
    built = small.model(pairs="none")
    losses = built.forward_train(**small.batch(BASE[:1], [[4]]))
    assert torch.isfinite(small.total(losses)) and "loss_similarity" not in losses
    with pytest.raises(ExperimentError, match="1 images are no pairs"):
        small.model().forward_train(**small.batch(BASE[:1], [[4]]))


def test_what_stands_in_hidden_pixels_changes_no_loss_and_no_gradient():
    maps, labels = small.pair_of_maps()
    noise = torch.where(maps == 255, torch.randint(small.K, 250, maps.shape), maps)
    found = []
    for given in (maps, noise):
        built = small.model()
        Progress(built, 0, 1, 0).tell(3)
        losses = built.forward_train(**small.batch(given, labels))
        small.total(losses).backward()
        found.append((losses, small.gradients(built), built.panoptic_head.pixel_pairs.balance.counts))
    (one, one_grads, one_counts), (other, other_grads, other_counts) = found
    assert torch.equal(one_counts, other_counts)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(torch.equal(grad, other_grads[name]) for name, grad in one_grads.items())


def test_a_map_is_that_of_all_classes_at_once_however_few_fit(monkeypatch):
    built, image = small.model().eval(), torch.rand(2, 3, 64, 64)
    metas = [{"img_shape": (50, 64, 3), "ori_shape": (70, 91, 3), "flip": flip} for flip in (False, True)]
    with torch.no_grad():
        whole = [detector.label_map(scores) for scores in built.class_scores(image, metas)]
        for largest in (1, 3 * 70 * 91, 2**26):
            monkeypatch.setattr(detector, "LARGEST", largest)
            found = built.simple_test(image, metas)
            assert all(
                (one == other).all() and one.dtype == other.dtype for one, other in zip(found, whole, strict=True)
            )
        views = [image, image.flip(-1)]
        mean = built.aug_test(views, [metas, metas[::-1]])
        scores = [built.class_scores(view, each) for view, each in zip(views, (metas, metas[::-1]), strict=True)]
        assert all((found == detector.label_map((a + b) / 2)).all() for found, a, b in zip(mean, *scores, strict=True))


@pytest.mark.parametrize(
    "profile, frozen", [("full_maps", -1), ("own_maps", 1), ("embedded_maps", -1), ("smoke_maps", -1)]
)
def test_the_profile_says_which_stages_train(profile, frozen):
    given = experiments.load().profiles[profile]
    sizes = Sizes(**given["architecture"].get("simformer", {}))
    config = methods.method("simformer").model(small.knobs(), sizes, given["backbones"]["r50"], small.K)
    assert config["backbone"]["frozen_stages"] == frozen


def test_an_item_of_two_images_is_two_images():
    maps, labels = small.pair_of_maps()
    flat = small.batch(maps, labels)
    nested = {key: value[None] if torch.is_tensor(value) else [value] for key, value in flat.items()}
    losses = []
    for given in (flat, nested):
        built = small.model()
        Progress(built, 0, 1, 0).tell(0)
        losses.append(built.forward_train(**given))
    assert all(torch.equal(value, losses[1][name]) for name, value in losses[0].items())


def test_draws_depend_on_the_step_and_not_on_what_was_drawn_before():
    pairs = small.model().panoptic_head.pixel_pairs
    draws = []
    for iteration, waste in ((4, 0), (4, 3), (5, 0)):
        torch.rand(waste)
        Progress(pairs, 1, 10, 0).tell(iteration)
        draws.append(pairs.numbers("same", (2, 4), torch.device("cpu")))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[2], pairs.numbers("other", (2, 4), torch.device("cpu")))


@pytest.mark.parametrize("knobs, moved", [({}, False), ({"detach_embedding": False}, True)])
def test_the_similarity_loss_trains_the_embedding_only_if_told_to(knobs, moved):
    built = small.model(**knobs)
    maps, labels = small.pair_of_maps()
    built.forward_train(**small.batch(maps, labels))["loss_similarity"].backward()
    trained = {name.split(".")[1] for name, grad in small.gradients(built).items() if grad.any()}
    assert "pixel_pairs" in trained and ("pixel_decoder" in trained) == moved


@pytest.mark.parametrize("knobs, moved", [({}, False), ({"detach_teacher": False}, True)])
def test_distillation_trains_the_scores_and_the_net_only_if_told_to(knobs, moved):
    built = small.model(**knobs)
    maps, labels = small.pair_of_maps()
    built.forward_train(**small.batch(maps, labels))["loss_distillation"].backward()
    trained = {name.split(".")[1] for name, grad in small.gradients(built).items() if grad.any()}
    assert {"cls_embed", "mask_embed"} <= trained and ("pixel_pairs" in trained) == moved


def test_processes_share_the_number_of_masks_and_the_class_balance(monkeypatch):
    monkeypatch.setattr(head_module, "reduce_mean", lambda tensor: tensor / 2)  # the other process has nothing
    monkeypatch.setattr(pixel_pairs, "reduce_mean", lambda tensor: tensor / 2)
    maps, labels = small.pair_of_maps()
    found = {}
    for exchange in (True, False):
        built = small.model(exchange_balance=exchange)
        Progress(built, 0, 1, 0).tell(0)
        losses = built.forward_train(**small.batch(maps, labels))
        found[exchange] = built.panoptic_head.pixel_pairs.balance.counts[-1]
    assert torch.equal(2 * found[True], found[False])
    monkeypatch.undo()
    built = small.model()
    alone = built.forward_train(**small.batch(maps, labels))
    assert float(losses["loss_mask"]) == pytest.approx(2 * float(alone["loss_mask"]), rel=1e-5)


def test_bf16_is_near_and_steps_stay_finite():
    maps, labels = small.pair_of_maps()
    exact = small.model().forward_train(**small.batch(maps, labels))
    built = small.model()
    use_autocast(built, methods.method("simformer").autocast, "cpu", "bf16")
    losses = built.forward_train(**small.batch(maps, labels))
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())
    small.total(losses).backward()
    assert all(torch.isfinite(grad).all() for grad in small.gradients(built).values())
    assert float(losses["loss_cls"]) == pytest.approx(float(exact["loss_cls"]), rel=0.05)
    optimizer = torch.optim.AdamW(built.parameters(), 1e-2)
    for _ in range(4):
        optimizer.step()
        optimizer.zero_grad()
        loss = small.total(built.forward_train(**small.batch(maps, labels)))
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(grad).all() for grad in small.gradients(built).values())


def test_a_few_steps_fit_one_pair():
    built = small.model()
    maps, labels = small.pair_of_maps()
    given = small.batch(maps, labels)
    optimizer = torch.optim.AdamW(built.parameters(), 3e-3)
    seen = []
    for _ in range(12):
        loss = small.total(built.forward_train(**given))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss))
    assert seen[-1] < 0.7 * seen[0]


def test_scores_are_cut_then_resized_then_compared():
    built = small.model(pairs="none").eval()
    image = torch.randn(1, 3, 64, 64)
    meta = {"img_shape": (52, 60, 3), "ori_shape": (26, 90, 3)}
    with torch.no_grad():
        (found,), (scores,) = built.simple_test(image, [meta]), built.class_scores(image, [meta])
        predictions = built.panoptic_head(built.extract_feat(image))
    classes = predictions.logits[-1, 0].softmax(-1)[:, :-1]
    masks = F.interpolate(predictions.masks[-1], (64, 64), mode="bilinear", align_corners=False)[0].sigmoid()
    padded = torch.einsum("qk,qhw->khw", classes, masks)
    expected = F.interpolate(padded[None, :, :52, :60], (26, 90), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(scores, expected)
    assert found.shape == (26, 90) and found.dtype == np.uint8 and np.array_equal(found, expected.argmax(0).numpy())
    flipped = original(padded, meta | {"flip": True})
    torch.testing.assert_close(flipped, expected.flip(-1))
    with torch.no_grad():
        (both,) = built.aug_test([image, image.flip(-1)], [[meta], [meta | {"flip": True}]])
    assert both.shape == (26, 90)


def test_padding_is_attended_to_like_any_pixel():
    built = small.model(pairs="none").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        one, other = (built.class_scores(image, [{"img_shape": (64, 64), "ori_shape": (64, 64)}])[0] for _ in range(2))
        cut = built.class_scores(image, [{"img_shape": (40, 64), "ori_shape": (40, 64)}])[0]
    torch.testing.assert_close(cut, one[:, :40])
    torch.testing.assert_close(one, other)


def test_initial_weights_are_those_of_the_released_code():
    built = small.model(seed=4)
    decoder, layers = built.panoptic_head.pixel_decoder, built.panoptic_head.transformer_decoder.layers
    convs = [conv.conv for conv in (*decoder.lateral_convs, *decoder.output_convs, decoder.last_feat_conv)]
    for conv in (*convs, decoder.mask_feature, built.panoptic_head.decoder_input_proj):
        bound = (3 / conv.weight[0].numel()) ** 0.5
        assert 0.8 * bound < float(conv.weight.abs().max()) <= bound
        assert conv.bias is None or not conv.bias.any()
    for (name, one), (_, other) in zip(layers[0].named_parameters(), layers[1].named_parameters(), strict=True):
        equal = torch.equal(one, other)
        assert equal == (one.dim() == 1), name  # weights are drawn for each layer, biases are copies
    assert layers[0].ffns[0].layers[1].bias.any() and not layers[0].attentions[0].attn.in_proj_bias.any()
    assert float(built.panoptic_head.query_embed.weight.std()) == pytest.approx(1, abs=0.3)


def test_the_backbone_trains_but_its_frozen_norms():
    built = small.model()
    norms = [module for module in built.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and all(not norm.training and not norm.weight.requires_grad for norm in norms)
    assert built.backbone.conv1.weight.requires_grad
    afresh = small.config(backbone=small.BACKBONE | {"norm_eval": False})["backbone"]
    assert afresh["norm_cfg"] == {"type": "BN", "requires_grad": True}
    groups = small.config(sizes=small.SIZES.model_copy(update={"backbone_groups": 4}))["backbone"]["norm_cfg"]
    assert groups == {"type": "GN", "num_groups": 4, "requires_grad": True}


@pytest.mark.parametrize("pairs, supervision", list(itertools.product(("none", "self", "cross"), ("base", "all"))))
def test_pairs_are_of_weak_supervision_alone(pairs, supervision):
    method = methods.method("simformer")
    chosen = small.knobs(pairs=pairs, supervision=supervision)
    config = method.model(chosen, small.SIZES, small.BACKBONE, small.K)
    paired = pairs != "none" and supervision == "base"
    assert (config["panoptic_head"]["pixel_pairs"] is not None) == paired
    assert config["panoptic_head"]["weights"]["complementary"] == (0.15 if supervision == "base" else 0)
    assert method.item_images(chosen) == 1 + paired
    steps = method.steps([{"type": "LoadScene"}], chosen, "d")
    assert (steps[0]["type"] == "WithReference") == paired
    assert ("pipeline.methods.simformer.reference" in method.more_modules(chosen)) == paired


def test_knobs_that_cannot_be_are_refused():
    method = methods.method("simformer")
    with pytest.raises(ExperimentError, match="knob distillation is 'x'; valid: ce, cce, or b and a threshold"):
        small.knobs(distillation="x")
    with pytest.raises(ExperimentError, match="pseudo_labels is none; with `supervision: pseudo` name the run"):
        method.labelled_by(small.knobs(supervision="pseudo"))
    with pytest.raises(ExperimentError, match="'a'; with `supervision: all` nothing reads them: write none"):
        method.labelled_by(small.knobs(supervision="all", pseudo_labels="a"))
    with pytest.raises(ExperimentError, match="knob points is 3; valid: at least 5"):
        method.model(small.knobs(points=3), small.SIZES, small.BACKBONE, small.K)
    with pytest.raises(ValueError, match="valid: what divides channels"):
        Sizes(channels=16, heads=3, norm_groups=4)


@pytest.fixture
def release(monkeypatch):
    """(number of classes, knobs) -> state of the released model with small sizes, under released names."""
    monkeypatch.setattr(released_checkpoint, "Sizes", lambda: small.SIZES)

    def state(classes=171, **knobs):
        ours = released_checkpoint.released_model(classes, **knobs).state_dict()
        return {key: tensor for name, tensor in ours.items() if (key := released_checkpoint.released_key(name))}

    return state


@pytest.fixture
def small_release(release):
    return release()


def test_a_checkpoint_goes_there_and_back(small_release, tmp_path):
    torch.save({"model": small_release}, tmp_path / "theirs.pth")
    assert released_checkpoint.convert(tmp_path / "theirs.pth", tmp_path / "ours.pth") == "r50"
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    released_checkpoint.released_model(171, "r50").load_state_dict(ours, strict=True)
    assert released_checkpoint.renamed(small_release).keys() <= ours.keys()
    released_checkpoint.convert(tmp_path / "ours.pth", tmp_path / "back.pth", reverse=True)
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == small_release.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in small_release.items())


@pytest.mark.parametrize(
    "classes, knobs, labels, scale",
    [
        (171, {}, "coco_stuff", (2560, 640)),
        (150, {}, "ade20k", (2048, 512)),
        (150, {"pairs": "none"}, "ade20k", (2048, 512)),
    ],
)
def test_an_imported_checkpoint_is_of_its_own_classes_and_size(classes, knobs, labels, scale, release, tmp_path):
    theirs = release(classes, **knobs)
    torch.save({"model": theirs}, tmp_path / "theirs.pth")
    with pytest.raises(ExperimentError, match="`python -m commands.import_checkpoint` makes one"):
        reading.read(tmp_path / "theirs.pth")
    released_checkpoint.convert(tmp_path / "theirs.pth", tmp_path / "ours.pth")
    bare = {key: value for key, value in theirs.items() if key != "criterion.ingore_th" or not knobs}
    torch.save(bare, tmp_path / "bare.pth")
    found = [loading.load_model(tmp_path / "ours.pth"), loading.load_model(tmp_path / "bare.pth")]
    importing.write_configuration("simformer", "r50", tmp_path / "ours.pth")
    found.append(loading.load_model(tmp_path / "ours.pth"))
    for loaded in found:
        steps = loaded.config.data.test.pipeline
        assert (loaded.labels.name, len(loaded.model.CLASSES), steps[0].type) == (labels, classes, "LoadScene")
        assert [tuple(each) for step in steps for each in step.get("scales", ())] == [scale]
    assert models.load(tmp_path / "ours.pth", maps=True).maps
    names = label_set(labels).names[::-1]
    torch.save({"state_dict": theirs, "meta": {"CLASSES": names}}, tmp_path / "named.pth")
    assert tuple(loading.load_model(tmp_path / "named.pth").model.CLASSES) == names
    naming.require_same_maps(reading.read(tmp_path / "bare.pth"), label_set(labels))
    with pytest.raises(ExperimentError, match=f"its {classes} classes are other ones"):
        naming.require_same_maps(reading.read(tmp_path / "named.pth"), label_set(labels))


def test_a_file_of_the_model_zoo_is_read_too(small_release, tmp_path):
    """Arrays in a pickle, without pairs, names as they were before `pixel_decoder.`."""
    import pickle

    old = {
        key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): tensor.numpy()
        for key, tensor in small_release.items()
        if not key.startswith(("criterion.cro", "criterion.ingore"))
    }
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": old, "__author__": "zoo"}))
    released_checkpoint.convert(tmp_path / "zoo.pkl", tmp_path / "ours.pth")
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    assert not any("pixel_pairs" in key for key in ours)
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": print}))
    with pytest.raises(ExperimentError, match="cannot be read as a checkpoint of tensors alone"):
        released_checkpoint.convert(tmp_path / "bad.pkl", tmp_path / "ours.pth")


def test_a_key_too_many_or_too_few_is_named(small_release, tmp_path):
    key = "sem_seg_head.pixel_decoder.adapter_1.weight"
    torch.save({"model": {k: v for k, v in small_release.items() if k != key}}, tmp_path / "less.pth")
    with pytest.raises(ExperimentError, match="missing: panoptic_head.pixel_decoder.lateral_convs.0.conv.weight"):
        released_checkpoint.convert(tmp_path / "less.pth", tmp_path / "ours.pth")
    torch.save({"model": small_release | {"more": torch.zeros(1)}}, tmp_path / "more.pth")
    with pytest.raises(ExperimentError, match="not mapped: more"):
        released_checkpoint.convert(tmp_path / "more.pth", tmp_path / "ours.pth")
