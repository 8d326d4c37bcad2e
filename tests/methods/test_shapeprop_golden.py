"""The authors' numbers of ShapeProp are reproduced, on fixtures of other sizes too, and checkpoints are converted."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import ExperimentError
from pipeline.methods.shapeprop import released_checkpoint as released
from pipeline.methods.shapeprop.golden import verify

GOLDEN = Path(__file__).parents[1] / "golden_comparison" / "shapeprop"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def failed(directory):
    return [str(check) for check in verify(directory) if not check.ok]


def arrays_of(name):
    with np.load(GOLDEN / name) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture
def copied(tmp_path):
    for file in GOLDEN.iterdir():
        if file.suffix in (".npz", ".json"):
            shutil.copy(file, tmp_path)
    return tmp_path


def test_the_authors_numbers_are_reproduced():
    checks = list(verify(GOLDEN))
    assert [str(check) for check in checks if not check.ok] == []
    assert {check.fixture for check in checks} == {file.name for file in GOLDEN.iterdir()} - {"README.md"}
    assert len(checks) > 70


@pytest.mark.parametrize(
    "file, array",
    [
        ("head.npz", "shape_activation"),
        ("head.npz", "loss_propagating"),
        ("head_grads.npz", "grad_prop.predictor.cls.weight"),
        ("mask_fusion.npz", "mask_logits"),
        ("mask_fusion_grads.npz", "grad_shape_activation"),
        ("message_passing.npz", "oblong_grad_weight"),
    ],
)
def test_a_number_beyond_tolerance_fails_its_line_alone(file, array, copied):
    arrays = arrays_of(file)
    wrong = arrays[array] + np.float32(1e-3) * np.abs(arrays[array]).max()
    np.savez(copied / file, **arrays | {array: wrong})
    lines = failed(copied)
    assert len(lines) == 1 and f" {array} " in lines[0]
    strange = np.array(arrays[array])
    strange.flat[0] = np.nan
    np.savez(copied / file, **arrays | {array: strange})
    assert len(failed(copied)) == 1


def test_one_wrong_flag_fails(copied):
    arrays = arrays_of("head.npz")
    np.savez(copied / "head.npz", **arrays | {"gt_has_mask": ~arrays["gt_has_mask"]})
    assert any("valid" in line for line in failed(copied))


def test_bad_folders_are_refused(copied):
    (copied / "other.npz").write_bytes(b"")
    with pytest.raises(ExperimentError, match="other.npz: unknown fixture; known are message_passing, head"):
        failed(copied)
    (copied / "other.npz").unlink()
    arrays = arrays_of("head.npz")
    np.savez(copied / "head.npz", **{name: array for name, array in arrays.items() if name != "roi_feats"})
    with pytest.raises(ExperimentError, match="head.npz: array 'roi_feats' is missing"):
        failed(copied)
    (copied / "head.npz").unlink()
    with pytest.raises(ExperimentError, match="head.npz: no such file; head_grads.npz holds gradients"):
        failed(copied)


# A fixture of other sizes by lines of its own


def layers(parameters, prefix, numbers, x, last):
    for index, number in enumerate(numbers):
        x = F.conv2d(x, parameters[f"{prefix}{number}.weight"], parameters[f"{prefix}{number}.bias"], padding=1)
        x = x if last and index == len(numbers) - 1 else F.relu(x)
    return x


def drawn(parameters, name, outputs, inputs, side=3):
    scale = (2 / (inputs * side * side)) ** 0.5
    parameters[f"{name}.weight"] = (scale * torch.randn(outputs, inputs, side, side)).requires_grad_()
    parameters[f"{name}.bias"] = (0.1 * torch.randn(outputs)).requires_grad_()


def other_head(folder, rois=7, classes=5, inputs=6, width=9, latent=4, height=6, side=8):
    """Write head.npz, head_grads.npz and their names; background is class 0, as in the authors' code."""
    p = {}
    for branch in ("activating", "propagating"):
        for n in range(4):
            drawn(p, f"feature_extractor_{branch}.shapeprop_feature{n + 1}", width, width if n else inputs)
    drawn(p, "predictor.cls", classes, width, 1)
    drawn(p, "propagation_weight_regressor.reg", latent * 9, width, 1)
    for n in range(3):
        drawn(p, f"encoder.encoder.{2 * n}", latent, latent if n else 1)
        drawn(p, f"decoder.decoder.{2 * n}", latent if n < 2 else 1, latent)
    features = torch.randn(rois, inputs, height, side, requires_grad=True)
    objects = torch.tensor([[10.0, 10, 40, 50], [60, 5, 90, 45], [20, 30, 50, 60]])
    has_mask, gt_labels, gt_image = torch.tensor([True, False, True]), torch.tensor([1, 3, 4]), torch.tensor([0, 0, 1])
    owner = torch.tensor([0, 0, 1, -1, 2, 2, -1])
    boxes = objects[owner.clamp(min=0)] + torch.tensor([1.0, -2, 2, 1])
    boxes[owner < 0] = torch.tensor([100.0, 100, 110, 112])
    image = torch.where(owner >= 0, gt_image[owner.clamp(min=0)], torch.tensor([0] * 5 + [1] * 2))
    labels = torch.where(owner >= 0, gt_labels[owner.clamp(min=0)], 0)
    valid = (owner >= 0) & has_mask[owner.clamp(min=0)]

    numbers = [1, 2, 3, 4]
    act = layers(p, "feature_extractor_activating.shapeprop_feature", numbers, features, False)
    maps = F.conv2d(act, p["predictor.cls.weight"], p["predictor.cls.bias"])
    saliency = maps[torch.arange(rois), labels]
    own = layers(p, "feature_extractor_propagating.shapeprop_feature", numbers, features, False)
    regressor = "propagation_weight_regressor.reg"
    weights = torch.sigmoid(F.conv2d(own, p[f"{regressor}.weight"], p[f"{regressor}.bias"]))
    embedding = layers(p, "encoder.encoder.", [0, 2, 4], saliency[:, None], True)
    share = weights.view(rois, latent, 9, height, side)
    share = share / (share.sum(2, keepdim=True) + 1e-5)
    passed = embedding
    for _ in range(max(height, side)):
        around = F.unfold(passed, 3, padding=1).view(rois, latent, 9, height, side)
        passed = (around * share).sum(2)
    shape = layers(p, "decoder.decoder.", [0, 2, 4], passed, True)[:, 0]
    targets = (torch.rand(int(valid.sum()), height, side) > 0.5).float()
    losses = {
        "act": F.cross_entropy(maps.mean((-2, -1)), labels),
        "prop": F.binary_cross_entropy_with_logits(shape[valid], targets),
    }
    arrays = {f"param.{name}": value for name, value in p.items()} | {
        "roi_feats": features,
        "roi_labels": labels,
        "roi_boxes": boxes,
        "roi_image": image,
        "gt_boxes": objects,
        "gt_labels": gt_labels,
        "gt_has_mask": has_mask,
        "gt_image": gt_image,
        "mask_targets14": targets,
        "valid": valid,
        "loss_activating": losses["act"],
        "loss_propagating": losses["prop"],
        "act_feats_mean": act.mean((-2, -1)),
        "saliency_all": maps,
        "saliency": saliency,
        "class_logits": maps.mean((-2, -1)),
        "weights_sub": weights[:, ::4],
        "embedding": embedding,
        "passed": passed,
        "shape_activation": shape,
    }
    np.savez(folder / "head.npz", **{name: value.detach().numpy() for name, value in arrays.items()})
    grads = {}
    for loss, value in losses.items():
        found = torch.autograd.grad(value, [features, *p.values()], retain_graph=True, allow_unused=True)
        grads[f"grad_{loss}_roi_feats"] = found[0]
        grads[f"has_grad_{loss}"] = torch.tensor([grad is not None for grad in found[1:]])
        grads[f"grad_{loss}_l2"] = torch.stack([torch.zeros(()) if g is None else g.norm() for g in found[1:]])
        grads |= {f"grad_{loss}.{n}": g for n, g in zip(p, found[1:], strict=True) if g is not None}
    np.savez(folder / "head_grads.npz", **{name: value.numpy() for name, value in grads.items()})
    (folder / "head_param_names.json").write_text(json.dumps(list(p)))


def other_fusion(folder, rois=5, inputs=6, width=7, encoded=4, side=5, convs=3):
    p = {}
    for n in range(2):
        drawn(p, f"feature_extractor.encoder.{2 * n}", encoded, encoded if n else 1)
    for n in range(convs):
        drawn(p, f"feature_extractor.mask_fcn{n + 1}", width, width if n else inputs + encoded)
    drawn(p, "predictor.conv5_mask", width, width, 2)
    drawn(p, "predictor.mask_fcn_logits", 1, width, 1)
    features = torch.randn(rois, inputs, side, side, requires_grad=True)
    shape = torch.randn(rois, side, side)
    shape[2] = -shape[2].abs()
    shape.requires_grad_()
    positive = F.relu(shape)[:, None]
    scaled = positive / (positive.flatten(1).max(1).values.view(-1, 1, 1, 1) + 1e-5)
    code = layers(p, "feature_extractor.encoder.", [0, 2], scaled, True)
    x = layers(p, "feature_extractor.mask_fcn", range(1, convs + 1), torch.cat([features, code], 1), False)
    deconv = "predictor.conv5_mask"
    x = F.relu(F.conv_transpose2d(x, p[f"{deconv}.weight"], p[f"{deconv}.bias"], stride=2))
    logits = F.conv2d(x, p["predictor.mask_fcn_logits.weight"], p["predictor.mask_fcn_logits.bias"])
    valid = torch.tensor([True, True, True, False, False])
    targets = (torch.rand(3, 2 * side, 2 * side) > 0.5).float()
    loss = F.binary_cross_entropy_with_logits(logits[valid, 0], targets)
    arrays = {f"param.{name}": value for name, value in p.items()} | {
        "roi_feats": features,
        "shape_activation": shape,
        "shape_normalised": scaled,
        "shape_encoded": code,
        "mask_logits": logits,
        "loss_mask": loss,
        "valid": valid,
        "is_positive": torch.tensor([True, True, True, False, True, True, False]),
        "mask_targets28": targets,
    }
    np.savez(folder / "mask_fusion.npz", **{name: value.detach().numpy() for name, value in arrays.items()})
    found = torch.autograd.grad(loss, [features, shape, *p.values()])
    grads = {"grad_roi_feats": found[0], "grad_shape_activation": found[1]}
    grads |= {f"grad.{name}": grad for name, grad in zip(p, found[2:], strict=True)}
    grads["grad_l2"] = torch.stack([grad.norm() for grad in found[2:]])
    np.savez(folder / "mask_fusion_grads.npz", **{name: value.numpy() for name, value in grads.items()})
    (folder / "mask_fusion_param_names.json").write_text(json.dumps(list(p)))


@pytest.mark.parametrize("seed", [0, 1])
def test_fixtures_of_other_sizes_are_reproduced(seed, tmp_path):
    torch.manual_seed(seed)
    other_head(tmp_path, classes=5 + seed, latent=4 + seed, height=6 + 4 * seed)
    other_fusion(tmp_path, convs=3 + seed)
    checks = list(verify(tmp_path))
    assert [str(check) for check in checks if not check.ok] == []
    assert len(checks) > 80


# Checkpoints


@pytest.fixture(scope="module")
def theirs():
    shapes = json.loads((GOLDEN / "state_dict_keys_r50.json").read_text())
    return {key: torch.full(shape, float(index)) for index, (key, shape) in enumerate(shapes.items())}


def test_a_checkpoint_is_converted_and_back(theirs, tmp_path):
    state = dict(theirs)
    scores, deltas = "roi_heads.box.predictor.cls_score.weight", "roi_heads.box.predictor.bbox_pred.weight"
    for key in (scores, deltas, "roi_heads.shapeprop.predictor.cls.bias"):
        state[key] = (
            torch.arange(float(len(state[key]))).view(-1, *[1] * (state[key].dim() - 1)).expand_as(state[key]).clone()
        )
    torch.save({"model": state}, tmp_path / "theirs.pth")
    assert released.convert(tmp_path / "theirs.pth", tmp_path / "ours.pth") == "r50"
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    with torch.device("meta"):
        model = released.released_model("r50")
    assert model.load_state_dict(ours, strict=True, assign=True)
    # background is theirs first and ours last; boxes have no background here
    assert ours["roi_head.bbox_head.fc_cls.weight"][:, 0].tolist() == [*range(1, 81), 0]
    assert ours["roi_head.shape_head.class_maps.bias"].tolist() == [*range(1, 81), 0]
    assert ours["roi_head.bbox_head.fc_reg.weight"][:, 0].tolist() == [*range(4, 324)]
    assert torch.equal(ours["backbone.conv1.weight"], state["backbone.body.stem.conv1.weight"])
    released.convert(tmp_path / "ours.pth", tmp_path / "back.pth", reverse=True)
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == state.keys()
    assert [key for key in state if not torch.equal(back[key], state[key])] == []
    # Of a model that was trained here: no rows of background, and anchors as they are computed.
    torch.save({"state_dict": ours}, tmp_path / "ours.pth")
    released.convert(tmp_path / "ours.pth", tmp_path / "back.pth", reverse=True)
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert not back[deltas][:4].any() and torch.equal(back[deltas][4:], state[deltas][4:])
    assert back["rpn.anchor_generator.cell_anchors.0"].tolist() == [
        [-22.0, -10.0, 25.0, 13.0],
        [-14.0, -14.0, 17.0, 17.0],
        [-10.0, -22.0, 13.0, 25.0],
    ]


def test_another_state_is_not_taken_for_it(theirs):
    assert released.renamed({"backbone.conv1.weight": torch.zeros(1)}) is None
    assert released.renamed(theirs).keys() == released.renamed(released.renamed(theirs)).keys()


def test_what_does_not_fit_is_named(theirs, tmp_path):
    broken = theirs | {"roi_heads.extra": torch.zeros(1), "rpn.head.conv.bias": torch.zeros(3)}
    del broken["roi_heads.shapeprop.predictor.cls.bias"]
    torch.save(broken, tmp_path / "theirs.pth")
    with pytest.raises(ExperimentError) as error:
        released.convert(tmp_path / "theirs.pth", tmp_path / "ours.pth")
    for part in (
        "not mapped: roi_heads.extra",
        "missing: roi_heads.shapeprop.predictor.cls.bias",
        "rpn.head.conv.bias: shape (3,), expected (256,)",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "ours.pth").exists()
    with pytest.raises(ExperimentError, match="no such file"):
        released.convert(tmp_path / "absent.pth", tmp_path / "ours.pth")
