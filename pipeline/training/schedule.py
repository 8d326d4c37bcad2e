"""How long a training is and its learning rate: functions of the iteration alone."""

import math
from dataclasses import dataclass

WARMUP_RATIO = 0.001  # of its learning rate, at which a training begins


def step(base, iteration, schedule, gamma=0.1):
    """A tenth from each milestone on."""
    return base * gamma ** sum(iteration >= milestone for milestone in schedule.milestones)


def cosine(base, iteration, schedule):
    """Half a cosine, down to 0 at the end."""
    return 0.5 * base * (math.cos(math.pi * (iteration / schedule.iterations)) + 1)


def poly(base, iteration, schedule, power=0.9):
    """A power of what is left of the training."""
    return base * (1 - iteration / schedule.iterations) ** power


POLICIES = {"step": step, "cosine": cosine, "poly": poly}


@dataclass(frozen=True)
class Schedule:
    """A training in iterations, of which each step takes several where few devices share it.

    Attributes:
        iterations: of the whole training.
        milestones: ascending, for policy `step`.
        warmup: iterations at the beginning in which the rate grows linearly from `WARMUP_RATIO` of what it would be.
        policy: key of POLICIES.
        epoch: iterations that a method takes for a pass over the training set: those of one, or, in a scale-down that
            `stands_for` a number of passes, that part of the training.
    """

    iterations: int
    milestones: tuple[int, ...]
    warmup: int
    policy: str
    epoch: float

    @classmethod
    def of(cls, training, iterations_per_epoch, accumulate):
        """The schedule of a `pipeline.declaration.config.Training` on this many devices.

        Args:
            iterations_per_epoch: iterations of one pass over the training set.
            accumulate: iterations of a step.
        """
        declared, optimisation = training.schedule, training.optimisation
        unit = iterations_per_epoch if "epochs" in declared else accumulate
        iterations = declared.get("epochs", declared.get("iterations")) * unit
        passes = declared.get("stands_for")
        return cls(
            iterations=iterations,
            milestones=tuple(milestone * unit for milestone in declared["milestones"]),
            warmup=optimisation["warmup_iterations"] * accumulate,
            policy=optimisation["lr_policy"],
            epoch=iterations / passes if passes else iterations_per_epoch,
        )

    def rate(self, base, iteration):
        """Learning rate in an iteration, counted from 0, of parameters whose rate is declared as `base`."""
        rate = POLICIES[self.policy](base, iteration, self)
        if iteration >= self.warmup:
            return rate
        return rate * (1 - (1 - iteration / self.warmup) * (1 - WARMUP_RATIO))
