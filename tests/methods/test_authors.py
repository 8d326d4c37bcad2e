"""The switch to the settings that a compared method's authors trained with, and that nothing changes without it."""

from types import SimpleNamespace

import pytest
import torch

from pipeline import methods
from pipeline.declaration import closure, experiments
from pipeline.methods.shared import optimisation, two_stage
from pipeline.methods.shared.authors import OPTIMISATION, Authors
from pipeline.methods.shared.sizes import Sizes
from pipeline.training.schedule import POLICIES, Schedule
from pipeline.training.update import Update

COMMON, AUTHORS = (SimpleNamespace(settings=name, mask_format="bitmap") for name in ("common", "authors"))
SETTINGS = Authors(
    rate=0.01,
    warmup=2000,
    warmup_start=0.03,
    clip_value=1.0,
    bias_rate=2.0,
    bias_decay=0.0,
    norm_decay=0.0,
    one_scale=True,
    sizes={"score_threshold": 0.0},
    remains="Caffe's ImageNet weights",
)
GIVEN = {
    "optimizer": {"type": "SGD", "lr": 0.04, "momentum": 0.9, "weight_decay": 0.1},
    "lr_policy": "step",
    "warmup_iterations": 250,
    "precision": "fp32",
    "grad_clip": None,
}


def test_the_frame_is_left_as_it_is():
    assert SETTINGS.optimisation(GIVEN, COMMON) is GIVEN and SETTINGS.modules(COMMON) == ()
    assert SETTINGS.sized(Sizes(), COMMON) == Sizes()
    steps = [{"type": "Resize", "img_scale": [(1333, 640), (1333, 800)], "multiscale_mode": "range"}]
    assert SETTINGS.steps(steps, COMMON, "any") == steps


def test_the_authors_settings_scale_with_the_profile():
    """Half the frame's rate and four times its warm-up, whatever those are in a profile."""
    changed = SETTINGS.optimisation(GIVEN, AUTHORS)
    assert changed["optimizer"] == {
        "type": "ValueClippedSGD",
        "lr": 0.02,
        "momentum": 0.9,
        "weight_decay": 0.1,
        "clip_value": 1.0,
        "paramwise_cfg": {"custom_keys": {".bias": {"lr_mult": 2.0, "decay_mult": 0.0}}, "norm_decay_mult": 0.0},
    }
    assert changed["warmup_iterations"] == 1000 and changed["lr_policy"] in POLICIES
    assert GIVEN["optimizer"].keys() == {"type", "lr", "momentum", "weight_decay"}, "the profile's stay"
    assert SETTINGS.modules(AUTHORS) == (OPTIMISATION,) and Authors(warmup=1000).modules(AUTHORS) == ()
    assert SETTINGS.sized(Sizes(), AUTHORS) == Sizes(score_threshold=0.0)
    steps = [{"type": "Resize", "img_scale": [(1333, 640), (1333, 800)], "multiscale_mode": "range"}, {"type": "Pad"}]
    assert SETTINGS.steps(steps, AUTHORS, "any") == [
        {"type": "Resize", "img_scale": [(1333, 800)], "multiscale_mode": "value"},
        {"type": "Pad"},
    ]


@pytest.mark.parametrize("method", ["maskx", "shapeprop"])
def test_older_codes_align_no_roi_and_the_frame_does(method):
    room = methods.method(method)
    backbone = experiments.load().profiles["full"]["backbones"]["r50"]
    for settings, wanted in (("common", {}), ("authors", {"aligned": False})):
        roi_head = room.model(room.preset("released", settings=settings), Sizes(), backbone, 80)["roi_head"]
        layers = [part["roi_layer"] for name, part in roi_head.items() if name.endswith("roi_extractor")]
        assert len(layers) >= 2
        assert all({k: v for k, v in layer.items() if k == "aligned"} == wanted for layer in layers)


def test_what_differs_is_said_and_less_of_it_with_the_switch():
    common, authors = SETTINGS.differs(COMMON), SETTINGS.differs(AUTHORS)
    for words in ("rate 0.01", "2000 iterations from 0.03", "to ±1.0", "2 times", "one image scale", "threshold 0.0"):
        assert words in common and words not in authors
    assert common.endswith("; Caffe's ImageNet weights") and authors == "Caffe's ImageNet weights"
    assert Authors().differs(COMMON) == ""


@pytest.mark.parametrize("start", optimisation.WARMUP_STARTS)
@pytest.mark.parametrize("policy", ["step", "cosine"])
def test_a_warm_up_begins_at_the_authors_share_and_ends_with_the_frame_s(policy, start):
    named = Authors(warmup_start=start).optimisation(GIVEN | {"lr_policy": policy}, AUTHORS)["lr_policy"]
    declared = {"iterations": 60, "milestones": (5, 40), "warmup": 20, "epoch": 1}
    ours, frame = (Schedule(policy=name, **declared) for name in (named, policy))
    plain = Schedule(policy=policy, **declared | {"warmup": 0})
    for iteration in range(60):
        share = 1 - (1 - iteration / 20) * (1 - start) if iteration < 20 else 1
        assert ours.rate(0.3, iteration) == pytest.approx(plain.rate(0.3, iteration) * share, rel=1e-12)
    assert ours.rate(0.3, 0) == pytest.approx(0.3 * start) and ours.rate(0.3, 30) == frame.rate(0.3, 30)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_each_element_of_a_whole_step_s_gradient_is_clipped(optimizer):
    """Not those of its iterations one by one, whose sum may be small again."""
    torch.manual_seed(0)
    given = GIVEN | {"optimizer": {"type": optimizer, "lr": 0.05}}
    ours, theirs = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    update = Update(ours, Authors(clip_value=0.3).optimisation(given, AUTHORS), accumulate=2)
    plain = getattr(torch.optim, optimizer)(theirs.parameters(), lr=0.05)
    seen = []
    for inputs in torch.randn(4, 2, 5, 3):
        plain.zero_grad()
        for model, add in ((ours, update.add), (theirs, lambda loss: (loss / 2).backward())):
            for batch in inputs:
                add(model(batch).square().sum())
        seen.append(max(float(p.grad.abs().max()) for p in theirs.parameters()))
        for parameter in theirs.parameters():
            parameter.grad.clamp_(-0.3, 0.3)
        plain.step()
        update.apply()
    assert max(seen) > 0.3
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_biases_and_normalisation_have_rates_and_decays_of_their_own():
    """The first convolution has one input channel, as those of shape maps have."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))

    def found(**settings):
        groups = Update(model, Authors(**settings).optimisation(GIVEN, AUTHORS), 1).optimizer.param_groups
        names = [name for name, _ in model.named_parameters()]
        return {name: (group["lr"], group["weight_decay"]) for name, group in zip(names, groups, strict=True)}

    assert found(bias_rate=2.0, bias_decay=0.0) == {
        "0.weight": (0.04, 0.1),
        "0.bias": (0.08, 0.0),
        "1.weight": (0.04, 0.1),
        "1.bias": (0.08, 0.0),
    }
    assert found(norm_decay=0.0) == {
        "0.weight": (0.04, 0.1),
        "0.bias": (0.04, 0.1),
        "1.weight": (0.04, 0.0),
        "1.bias": (0.04, 0.0),
    }


@pytest.mark.parametrize("name", [n for n in methods.names() if "settings" in methods.method(n).knobs.model_fields])
def test_every_switch_names_what_its_modules_know_and_changes_the_training(name):
    method = methods.method(name)
    common = method.load_knobs(method.pinned(), name)
    authors = common.model_copy(update={"settings": "authors"})
    assert common.settings == "common" and method.optimisation(GIVEN, common) == GIVEN
    assert OPTIMISATION not in methods.modules_of(name, common)
    changed = method.optimisation(GIVEN, authors)
    assert changed != GIVEN and changed["grad_clip"] is None
    named = changed["optimizer"]["type"] != "SGD" or changed["lr_policy"] != "step"
    assert named == (OPTIMISATION in methods.modules_of(name, authors))
    assert changed["lr_policy"] in POLICIES
    Update(torch.nn.Linear(1, 1), changed, 1)
    assert len(method.differs(authors)) < len(method.differs(common))


def test_a_run_without_the_switch_does_not_depend_on_its_code():
    """So the words and factors of one method's authors train no other method's rows again."""
    for module in (*two_stage.MASK_MODULES, "pipeline.training.computation"):
        assert not {OPTIMISATION, "pipeline.methods.shared.authors"} & closure.closure([module]).keys()
    assert "pipeline.methods.shared.authors" not in closure.closure([OPTIMISATION])


@pytest.mark.parametrize("name", ["full", "own", "embedded", "smoke"])
def test_opmask_s_schedule_has_its_share_of_1x_in_every_profile(name):
    """130,000 steps of 16 images, beside 12 passes over 117,266 images that have objects."""
    schedules = experiments.load().profiles[name]["schedules"]
    long, short = schedules["130k"], schedules["1x"]
    assert long["milestones"] in ([], [pytest.approx(long["iterations"] * 120 / 130, abs=1)])
    steps = short["iterations"] if "iterations" in short else short["epochs"] * 117266 / 16
    assert long["iterations"] / steps == pytest.approx(130000 / (12 * 117266 / 16), rel=0.02)
    assert name == "smoke" or long["stands_for"] == round(long["iterations"] / steps * 12)
