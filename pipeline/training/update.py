"""The update of the weights by the gradients of one step."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import torch
from mmcv.runner import build_optimizer


class Update:
    """Gradients of several iterations, scaled in half precision, clipped, and applied at the rate of a schedule.

    Args:
        model: its parameters are updated.
        optimisation: of a Training; `optimizer` is a configuration for mmcv, `grad_clip` the largest norm (L2) of all
            gradients together, None for any.
        accumulate: iterations of a step.
    """

    def __init__(self, model, optimisation, accumulate):
        self.optimizer = build_optimizer(model, optimisation["optimizer"])
        scaled = optimisation["precision"] == "fp16" and torch.cuda.is_available()
        self.scaler = torch.amp.GradScaler("cuda", enabled=scaled)
        self.largest, self.accumulate = optimisation.get("grad_clip"), accumulate
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    def set_rates(self, rate):
        """Set the learning rates to a function of those that are declared. Returns that of the first parameters."""
        for group, declared in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate(declared)
        return self.optimizer.param_groups[0]["lr"]

    def add(self, loss):
        """Add the gradients of an iteration's loss."""
        self.scaler.scale(loss / self.accumulate).backward()

    def apply(self):
        """Update the weights at the end of a step. Returns the norm of the gradients, None if they are not clipped."""
        norm = None
        if self.largest is not None:
            self.scaler.unscale_(self.optimizer)
            with_gradients = [
                parameter
                for group in self.optimizer.param_groups
                for parameter in group["params"]
                if parameter.grad is not None
            ]
            norm = torch.nn.utils.clip_grad_norm_(with_gradients, self.largest)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return norm

    def state(self):
        """What an interrupted training continues from."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state):
        """Continue from a `state`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
