"""What the parts of a model want to know of the training, and what they count.

A part with a method `set_progress` is told before every iteration where the training stands; key sampling and warm-up
weights are functions of that, so that a resumed training continues them without saved state. What a part has in
`statistics` after an iteration goes to the log; it is no part of the loss.
"""

import torch


class Progress:
    """The parts of a model, whatever its architecture, that want to be told or have something to tell.

    Args:
        model: not wrapped.
        seed: of the run.
        iterations_per_epoch: iterations of one pass over the training set on this many devices, see `Schedule.epoch`.
        rank: of this process.
    """

    def __init__(self, model, seed, iterations_per_epoch, rank):
        self.seed, self.iterations_per_epoch, self.rank = seed, iterations_per_epoch, rank
        self.told = [part for part in model.modules() if hasattr(part, "set_progress")]
        self.counting = [part for part in model.modules() if isinstance(getattr(part, "statistics", None), dict)]

    def tell(self, iteration):
        """Say that an iteration, counted from 0, begins."""
        for part in self.told:
            part.set_progress(iteration, iteration / self.iterations_per_epoch, self.seed, self.rank)

    def statistics(self):
        """{name: number} that the parts counted in the last iteration; tensors as such, of their own memory."""
        return {
            name: value.detach().clone() if torch.is_tensor(value) else float(value)
            for part in self.counting
            for name, value in part.statistics.items()
        }
