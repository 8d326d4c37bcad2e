"""The contrastive head as a whole: supervision modes, query sharing, precision, sizes, attention."""

import pytest
import torch

from pipeline import methods
from pipeline.methods.contrastmask.attention import enhance
from pipeline.methods.contrastmask.cl_head import ContrastiveHead
from pipeline.methods.shared.draws import step_generator

from .conftest import configuration

ROIS, CHANNELS, SIZE = 6, 8, 14
NOVEL = torch.tensor([False, True, False, True, False, True])


def head(size=SIZE, channels=CHANNELS, recipe="paper", **knobs):
    sizes = {
        "neck_channels": channels,
        "contrast_channels": channels,
        "contrast_roi_size": size,
        "mask_roi_size": size,
    }
    knobs = methods.method("contrastmask").preset(recipe, **{"encoder_convs": 2, "sigma": 1.0, **knobs})
    config = configuration(knobs=knobs, sizes=sizes, backbone={"type": "ResNet", "depth": 50})
    torch.manual_seed(0)
    return ContrastiveHead(**{key: value for key, value in config["roi_head"]["cl_head"].items() if key != "type"})


def rois(size=SIZE, channels=CHANNELS, seed=0):
    """Return features, masks of centred discs, their noisy CAMs and prior flags."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    masks = ((y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 3) ** 2).expand(ROIS, -1, -1).clone()
    cams = (masks + 0.05 * torch.rand(ROIS, size, size, generator=generator)).clamp(max=1)
    features = torch.randn(ROIS, channels, size, size, generator=generator)
    return features, masks, cams, torch.ones(ROIS, dtype=torch.bool)


def run(model, inputs=None, is_novel=NOVEL, weight=1.0, iteration=0):
    features, masks, cams, has_prior = inputs or rois()
    encoded, joined = model(features)
    generator = step_generator(0, 0, iteration, torch.device("cpu"))
    loss, statistics = model.loss(encoded, masks, cams, has_prior, is_novel, weight, generator)
    return loss, {name: int(value) for name, value in statistics.items()}, joined


@pytest.mark.parametrize(("mode", "base", "novel"), [("base", 3, 0), ("novel", 0, 3), ("all", 3, 3), ("oracle", 3, 3)])
def test_supervision_selects_rois_for_keys_and_queries(mode, base, novel):
    loss, statistics, _ = run(head(supervision=mode))
    assert (statistics["kept_base_rois"], statistics["kept_novel_rois"]) == (base, novel)
    assert loss > 0
    # what the other RoIs look like makes no difference
    features, masks, cams, has_prior = rois()
    outside = {"base": NOVEL, "novel": ~NOVEL}.get(mode, torch.zeros_like(NOVEL))
    masks[outside], cams[outside], has_prior[outside] = ~masks[outside], 1 - cams[outside], False
    assert torch.equal(run(head(supervision=mode), (features, masks, cams, has_prior))[0], loss)


@pytest.mark.parametrize(("mode", "sensitive"), [("all", False), ("oracle", True)])
def test_masks_of_novel_rois_matter_in_oracle_mode_only(mode, sensitive):
    loss, _, _ = run(head(supervision=mode))
    features, masks, cams, has_prior = rois()
    masks[NOVEL] = masks[NOVEL].roll(3, dims=2)
    changed, _, _ = run(head(supervision=mode), (features, masks, cams, has_prior))
    assert (loss != changed) == sensitive


def test_own_queries_make_the_loss_a_mean_over_independent_rois():
    model = head(query_sharing=False, projector_norm="none")
    inputs = rois()
    together, _, _ = run(model, inputs)
    alone = [run(model, tuple(t[n : n + 1] for t in inputs), NOVEL[n : n + 1])[0] for n in range(ROIS)]
    assert together.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)
    shared, _, _ = run(head(query_sharing=True, projector_norm="none"), inputs)
    assert together.item() != pytest.approx(shared.item(), rel=1e-4)


def test_dropped_rois_enter_the_queries_only_if_all_do():
    features, masks, cams, has_prior = rois()
    masks[0] = True
    masks[0, :1, :3] = False  # too few easy negatives: dropped, but both sides of the partition exist
    values = {}
    for which in ("all", "kept"):
        loss, statistics, _ = run(head(query_rois=which, projector_norm="none"), (features, masks, cams, has_prior))
        assert statistics["dropped_base_rois"] == 1
        values[which] = loss.item()
    kept = [1, 2, 3, 4, 5]
    without, _, _ = run(
        head(query_rois="all", projector_norm="none"),
        (features[kept], masks[kept], cams[kept], has_prior[kept]),
        NOVEL[kept],
    )
    assert values["kept"] == pytest.approx(without.item(), rel=1e-5)
    assert values["all"] != pytest.approx(without.item(), rel=1e-5)


def test_weight_and_scale_multiply_the_loss():
    loss, _, _ = run(head())
    assert run(head(), weight=0.25)[0].item() == pytest.approx(loss.item() / 4, rel=1e-6)
    assert run(head(loss_scale=0.1, cl_loss_weight=0.5))[0].item() == pytest.approx(loss.item() / 20, rel=1e-6)


def test_the_control_without_loss_keeps_the_features_and_gives_no_gradient():
    model = head(cl_loss_weight=0)
    loss, _, joined = run(model)
    assert loss == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert torch.equal(joined, run(head())[2])


def test_the_loss_is_a_function_of_seed_and_iteration():
    model = head(sigma=0.3)
    assert torch.equal(run(model)[0], run(model)[0])
    assert not torch.equal(run(model)[0], run(model, iteration=1)[0])


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_the_order_of_rois_does_not_matter(recipe):
    model = head(recipe=recipe)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    loss, _, _ = run(model)
    shuffled, _, _ = run(model, tuple(t[order] for t in rois()), NOVEL[order])
    assert shuffled.item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (14, 14), (9, 30)])
def test_attention_equals_its_definition(size):
    x = torch.randn(3, 5, *size).relu().requires_grad_()
    cells = x.flatten(2)
    unit = torch.nn.functional.normalize(cells, dim=1)
    expected = (cells @ torch.softmax(unit.transpose(1, 2) @ unit, -1).transpose(1, 2)).view_as(x)
    got = enhance(x)
    assert torch.allclose(got, expected, atol=1e-6)
    (ours,) = torch.autograd.grad(got.square().sum(), x, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected.square().sum(), x)
    # F.normalize has a gradient of 1e12 at zero cells, which the ReLU before them would stop
    live = cells.detach().norm(dim=1, keepdim=True).view(3, 1, *size) > 0
    assert torch.allclose(ours * live, theirs * live, atol=1e-4)
    assert torch.isfinite(ours).all()
    assert ours.abs().max() < 1e3


def test_direct_features_join_unchanged():
    model = head(cl_features="direct", cl_fusion="none")
    features = rois()[0]
    encoded, joined = model(features)
    assert torch.equal(encoded, joined)
