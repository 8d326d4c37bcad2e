"""What the authors of a compared method trained and tested with where it is not the frame that all rows share.

The rows of a table can be compared because detector, data, schedule and optimiser are one; the published rows come from
four frameworks. A method states its authors' settings as data (`Authors`): the knob `settings` chooses between them and
the frame, and what still differs from the published recipe stands below the table.
"""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.declaration.knobs import KnobSet
from pipeline.methods.shared import two_stage

COMMON, AUTHORS = "common", "authors"
# Of the profile `full`, for 16 images a step, which the authors' numbers are for as well; smaller profiles are scaled.
RATE, WARMUP, WARMUP_START = 0.02, 500, 0.001
OPTIMISATION = "pipeline.methods.shared.optimisation"  # knows the types and policies that are named here


class SettingsKnobs(KnobSet):
    """The choice between the frame and the authors' settings.

    Attributes:
        settings: common, as all rows of a table; authors, as `Authors` says.
    """

    settings: Literal["common", "authors"]


@dataclass(frozen=True)
class Authors:
    """Settings of a method's authors that are not those of the frame.

    Attributes:
        rate: learning rate for 16 images a step.
        warmup, warmup_start: iterations in which it grows to that, and the share of it that it begins with.
        clip_value: what each element of a gradient is clipped to, either way; None clips none.
        bias_rate, bias_decay: factors on learning rate and weight decay of every parameter called `bias`.
        norm_decay: factor on the weight decay of normalisation layers.
        one_scale: training images have the larger scale of the profile alone.
        sizes: {name: value} of `pipeline.methods.shared.sizes.Sizes`, such as a score threshold.
        remains: what differs from the published recipe whatever `settings` says, in words.
    """

    rate: float = RATE
    warmup: int = WARMUP
    warmup_start: float = WARMUP_START
    clip_value: float | None = None
    bias_rate: float = 1.0
    bias_decay: float = 1.0
    norm_decay: float = 1.0
    one_scale: bool = False
    sizes: dict = field(default_factory=dict)
    remains: str = ""

    def optimisation(self, given: dict, knobs: SettingsKnobs) -> dict:
        """As `Method.optimisation`."""
        if knobs.settings == COMMON:
            return given
        optimizer = given["optimizer"] | {"lr": given["optimizer"]["lr"] * self.rate / RATE}
        if factors := self._factors():
            optimizer["paramwise_cfg"] = factors
        if self.clip_value is not None:
            optimizer |= {"type": f"ValueClipped{optimizer['type']}", "clip_value": self.clip_value}
        changed = {
            "optimizer": optimizer,
            "warmup_iterations": round(given["warmup_iterations"] * self.warmup / WARMUP),
        }
        if self.warmup_start != WARMUP_START:
            changed["lr_policy"] = f"{given['lr_policy']} from {self.warmup_start:g}"
        return given | changed

    def _factors(self):
        """Of parameters, in mmcv's words. Biases go by their name: its own factor for their decay leaves out those of
        convolutions with one input channel, which it takes for depthwise ones.
        """
        biases = {"lr_mult": self.bias_rate, "decay_mult": self.bias_decay}
        factors = {} if set(biases.values()) == {1.0} else {"custom_keys": {".bias": biases}}
        return factors | ({"norm_decay_mult": self.norm_decay} if self.norm_decay != 1 else {})

    def modules(self, knobs: SettingsKnobs) -> tuple[str, ...]:
        """As `Method.more_modules`: what knows the types and policies that `optimisation` names, where it is needed."""
        needed = self.clip_value is not None or self.warmup_start != WARMUP_START
        return (OPTIMISATION,) if needed and knobs.settings == AUTHORS else ()

    def sized(self, sizes, knobs: SettingsKnobs):
        """The sizes of a model, with those of the authors in the place of the frame's where `settings` says so."""
        return sizes if knobs.settings == COMMON else sizes.model_copy(update=self.sizes)

    def steps(self, given: list, knobs, dataset) -> list:
        """As `Method.steps`, with what `two_stage.steps` does."""
        given = two_stage.steps(given, knobs, dataset)
        if knobs.settings == COMMON or not self.one_scale:
            return given
        return [
            step | {"img_scale": [max(step["img_scale"])], "multiscale_mode": "value"}
            if step["type"] == "Resize"
            else step
            for step in given
        ]

    def differs(self, knobs: SettingsKnobs) -> str:
        """As `Method.differs`."""
        switched = "" if knobs.settings == AUTHORS or not (words := self._words()) else f"its authors' {words}"
        return "; ".join(filter(None, (switched, self.remains)))

    def _words(self):
        found = [
            (self.rate != RATE, f"learning rate {self.rate:g}"),
            (
                (self.warmup, self.warmup_start) != (WARMUP, WARMUP_START),
                f"warm-up of {self.warmup} iterations from {self.warmup_start:.2g} of the rate",
            ),
            (self.clip_value is not None, f"clipping of each gradient element to ±{self.clip_value}"),
            (self.bias_rate != 1, f"biases at {self.bias_rate:g} times the rate"),
            (self.bias_decay == 0, "no decay on biases"),
            (self.norm_decay == 0, "no decay on normalisation layers"),
            (self.one_scale, "one image scale"),
            *((True, f"{name.replace('_', ' ')} {value}") for name, value in self.sizes.items()),
        ]
        return ", ".join(text for told, text in found if told)
