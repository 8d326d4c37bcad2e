"""What `authors.Authors` names: optimisers that clip gradients by value, and warm-ups that begin elsewhere.

Nothing but a run with the knob `settings: authors` imports it, so no other run's identity depends on it.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import functools

import torch
from mmcv.runner import OPTIMIZERS

from pipeline.training.schedule import POLICIES, WARMUP_RATIO

# Shares of the learning rate at which warm-ups begin: ShapeProp's, ShapeMask's (0.0067 of 0.08), Mask^X R-CNN's.
WARMUP_STARTS = (0.03, 0.08375, 1 / 3)


class _ValueClipped:
    """An optimiser that first clips each element of a step's gradient, summed over its iterations and processes.

    Half precision has been scaled back by then.

    Args:
        clip_value: largest absolute value.
        kwargs: as of the optimiser.
    """

    def __init__(self, params, clip_value, **kwargs):
        super().__init__(params, **kwargs)
        self.clip_value = clip_value

    def step(self, closure=None):
        for group in self.param_groups:
            torch.nn.utils.clip_grad_value_(group["params"], self.clip_value)
        return super().step(closure)


@OPTIMIZERS.register_module()
class ValueClippedSGD(_ValueClipped, torch.optim.SGD):
    """SGD, as `_ValueClipped`."""


@OPTIMIZERS.register_module()
class ValueClippedAdamW(_ValueClipped, torch.optim.AdamW):
    """AdamW, as `_ValueClipped`."""


def warmed_up(base, iteration, declared, policy, start):
    """The learning rate of a policy whose warm-up begins at another share of it than the frame's.

    `Schedule.rate` multiplies by the frame's warm-up, which is taken out again.

    Args:
        base, iteration, declared: as of a policy of `POLICIES`.
        policy: one of them.
        start: share of the rate at iteration 0.
    """
    rate = policy(base, iteration, declared)
    if iteration >= declared.warmup:
        return rate
    left = 1 - iteration / declared.warmup
    return rate * (1 - left * (1 - start)) / (1 - left * (1 - WARMUP_RATIO))


for _name, _policy in list(POLICIES.items()):
    for _start in WARMUP_STARTS:
        POLICIES[f"{_name} from {_start:g}"] = functools.partial(warmed_up, policy=_policy, start=_start)
