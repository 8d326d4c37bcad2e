"""The knobs of an experiment: typed, bounded, read from a flat mapping, resolved against a recipe.

`recipes.yaml` holds both presets; a knob whose value is the word `recipe` takes the value of the chosen one. A preset
value may depend on the schedule of the run: there the released code has two configurations that differ in more than
their length.
"""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from functools import cache
from numbers import Real
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.errors import ExperimentError

RECIPES = ("paper", "released")
METHOD_FOLDER = Path(__file__).resolve().parents[1] / "methods" / "contrastmask"
RECIPES_FILE = METHOD_FOLDER / "recipes.yaml"
PINNED_FILE = METHOD_FOLDER / "knobs.yaml"


def _choice(*values):
    return field(metadata={"choices": values})


def _within(low, high, low_open=False, high_open=False):
    interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    return field(metadata={"range": (low, high, low_open, high_open), "valid": f"in {interval}"})


def _at_least(low):
    return field(metadata={"range": (low, float("inf"), False, False), "valid": f"at least {low:g}"})


@dataclass(frozen=True)
class Knobs:
    """Every value an experiment can turn; differences between text and code are numbered as in `recipes.yaml`.

    Attributes:
        recipe: preset that the value `recipe` refers to.
        seeds: seeds that a run is trained with.
        sigma: fraction of each key set that is sampled.
        delta: CAM threshold of RoIs without a mask: foreground above 1 - delta, background below delta.
        tau_easy: temperature of easy keys (D5).
        tau_hard: temperature of hard keys (D5).
        cl_loss_weight: weight of the contrastive loss; 0 keeps the CL head and its features but not its loss.
        encoder_convs: 3x3 convolutions of the CL encoder.
        projector_layers: layers of the projector, the last one linear.
        supervision: RoIs in the contrastive loss: base, novel, all, or oracle (all, with masks for novel ones).
        query_sharing: one query pair for all RoIs, or one per RoI.
        cl_join: joining the contrastive feature with the mask-head input (D1).
        cl_features: contrastive feature with self-attention (enhanced) or the encoding itself (direct) (D2).
        cl_fusion: 1x1 convolution before the join, conv or none (D2b).
        roi_features: RoI features of CL head and mask head, separate or shared (D3).
        detach_cl_features: stop the contrastive branch's gradient at its RoI feature (D4).
        detach_cl_cam: stop the contrastive loss at the CAM (D4b).
        detach_mask_cam: stop the mask loss at the CAM (D4c).
        detach_classifier: stop the CAM's gradient at the classifier's weight (D4d).
        detach_queries: stop the contrastive loss at the queries (D4e).
        loss_denominator: positive's own term with the temperature, or plain (D6).
        loss_similarity: cosine cos(q, k), or centred cos(q, k - q) (D7).
        loss_scale: factor on the contrastive loss (D8).
        lambda_warmup: linear or in steps of an epoch (D9).
        lambda_warmup_epochs: epochs until lambda is 1; 0 starts at 1 (D9b).
        lambda_epoch_passes: passes over the training set that this warm-up counts as an epoch (D9c).
        key_pooling: keys contrasted within a RoI, or over the batch (D10).
        query_rois: RoIs in the shared queries: all, or the kept ones (D11).
        exchange_queries: shared queries average over the images of all GPUs, or of each (D12).
        cam_threshold: inclusive or strict comparison with delta (D13).
        tiny_mask_fallback: masks with fewer than 2 cells on a side take that side from the CAM (D14).
        min_keys: smallest key set for a RoI to take part (D16).
        sample_rounding: exact ceiling, or the ceiling of the float32 product (D17).
        hard_easy_rule: which cells are hard (D18).
        sampling_order: sample_first or split_first (D18b).
        projector_norm: batch, sync (batch over all GPUs) or none (D19).
        mask_loss_rois: base_positives or base_gt (D22).
        box_init: initial weights of box classifier and regressor, xavier or normal (D23b).
        cam_normalise: after_upsample or before_upsample (D24).
        cam_frame: CAM of a detection's proposal, or of its refined box (D25).
        cl_key_scale: factor on delta for keys (D27).
        mask_format: masks as bitmaps of the image, or as polygons until they are cropped to RoIs (D28b).
    """

    recipe: str = _choice(*RECIPES)
    seeds: tuple[int, ...] = _at_least(0)
    sigma: float = _within(0, 1, low_open=True)
    delta: float = _within(0, 0.5, low_open=True, high_open=True)
    tau_easy: float = _within(0, 100, low_open=True)
    tau_hard: float = _within(0, 100, low_open=True)
    cl_loss_weight: float = _at_least(0)
    encoder_convs: int = _at_least(1)
    projector_layers: int = _at_least(1)
    supervision: str = _choice("base", "novel", "all", "oracle")
    query_sharing: bool
    cl_join: str = _choice("sum", "concat")
    cl_features: str = _choice("enhanced", "direct")
    cl_fusion: str = _choice("conv", "none")
    roi_features: str = _choice("separate", "shared")
    detach_cl_features: bool
    detach_cl_cam: bool
    detach_mask_cam: bool
    detach_classifier: bool
    detach_queries: bool
    loss_denominator: str = _choice("temperature", "plain")
    loss_similarity: str = _choice("cosine", "centred")
    loss_scale: float = _at_least(0)
    lambda_warmup: str = _choice("linear", "steps")
    lambda_warmup_epochs: float = _at_least(0)
    lambda_epoch_passes: int = _at_least(1)
    key_pooling: str = _choice("roi", "batch")
    query_rois: str = _choice("all", "kept")
    exchange_queries: bool
    cam_threshold: str = _choice("inclusive", "strict")
    tiny_mask_fallback: bool
    min_keys: int = _at_least(1)
    sample_rounding: str = _choice("ceil", "ceil_float32")
    hard_easy_rule: str = _choice("paper", "band")
    sampling_order: str = _choice("sample_first", "split_first")
    projector_norm: str = _choice("batch", "sync", "none")
    mask_loss_rois: str = _choice("base_positives", "base_gt")
    box_init: str = _choice("xavier", "normal")
    cam_normalise: str = _choice("after_upsample", "before_upsample")
    cam_frame: str = _choice("proposal", "refined")
    cl_key_scale: float = _within(0, 2, low_open=True)
    mask_format: str = _choice("bitmap", "polygon")

    @classmethod
    def load(cls, mapping: dict, source: str = "params.yaml", schedule: str = "1x") -> "Knobs":
        """Read knobs and replace the value `recipe` by the preset's.

        Args:
            mapping: knob name -> value, all of them.
            source: file the mapping came from, for messages.
            schedule: of the run; decides between preset values that differ by it.

        Raises:
            ExperimentError: a knob is unknown, missing, of the wrong type or out of its range.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name in mapping:
            if name not in fields:
                near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0)
                raise ExperimentError(f"{source}: unknown knob {name!r}; did you mean {near[0]!r}?")
        missing = [name for name in fields if name not in mapping]
        if missing:
            raise ExperimentError(f"{source}: knob {missing[0]!r} is missing; `git diff {source}` shows what left")
        recipe = _checked(fields["recipe"], mapping["recipe"], source)
        preset = preset_values(recipe, schedule)
        values = {}
        for name, knob in fields.items():
            value = mapping[name]
            if value == "recipe" and name in preset:
                value = preset[name]
            values[name] = _checked(knob, value, source, by_recipe=name in preset)
        return cls(**values)

    @classmethod
    def preset(cls, recipe: str, schedule: str = "1x", **overrides) -> "Knobs":
        """Return a preset as a whole, for what must not follow anybody's choice of knobs.

        Args:
            recipe: 'paper' or 'released'.
            schedule: as in `load`.
            overrides: knobs that are to differ. Those that no preset decides are as in the pinned knob file.
        """
        pinned = YAML(typ="safe", pure=True).load(PINNED_FILE)
        decided = dict.fromkeys(preset_values(recipe), "recipe")
        return cls.load({**pinned, **decided, "recipe": recipe, **overrides}, PINNED_FILE.name, schedule)

    @staticmethod
    def describe() -> list[dict]:
        """Return the rows of the table of differences: id, knob, description, paper, released, note.

        A value that depends on the schedule is a dictionary by schedule.
        """
        return [dict(row) for row in _differences()]


def preset_values(recipe: str, schedule: str = "1x") -> dict:
    """Return knob -> value of a preset, for the knobs that the presets decide.

    Raises ExperimentError for a schedule that a value depends on and does not list.
    """
    return {row["knob"]: _of_schedule(row, recipe, schedule) for row in _differences() if row["knob"] is not None}


def _of_schedule(row, recipe, schedule):
    value = row[recipe]
    if not isinstance(value, dict):
        return value
    if schedule not in value:
        raise ExperimentError(
            f"recipes.yaml: {row['id']}, knob {row['knob']}: the {recipe} value lists the schedules "
            f"{', '.join(value)} and not {schedule!r}; add it, or set {row['knob']} in the knob file"
        )
    return value[schedule]


@cache
def _differences() -> tuple[dict, ...]:
    return tuple(YAML(typ="safe", pure=True).load(RECIPES_FILE))


def _checked(knob: dataclasses.Field, value, source: str, by_recipe: bool = False):
    """Return the value in the knob's type, or raise with what is valid."""
    valid = _valid_values(knob) + (", or `recipe`" if by_recipe else "")
    error = ExperimentError(f"{source}: knob {knob.name} is {value!r}; valid: {valid}")
    if isinstance(knob.type, types.GenericAlias):
        if not isinstance(value, (list, tuple)) or not value:
            raise error
        element = typing.get_args(knob.type)[0]
        numbers = tuple(_number(item, element, knob, error) for item in value)
        if len(set(numbers)) != len(numbers):
            raise error
        return numbers
    if knob.type is bool:
        if not isinstance(value, bool):
            raise error
        return value
    if knob.type is str:
        if value not in knob.metadata["choices"]:
            raise error
        return value
    return _number(value, knob.type, knob, error)


def _number(value, kind, knob, error):
    if isinstance(value, bool) or not isinstance(value, Real):
        raise error
    if value != value or value in (float("inf"), float("-inf")) or (kind is int and value != int(value)):
        raise error
    low, high, low_open, high_open = knob.metadata["range"]
    if not (low < value if low_open else low <= value) or not (value < high if high_open else value <= high):
        raise error
    return kind(value)


def _valid_values(knob: dataclasses.Field) -> str:
    if knob.type is bool:
        return "true, false"
    if knob.type is str:
        return ", ".join(knob.metadata["choices"])
    if isinstance(knob.type, types.GenericAlias):
        return "a list of different integers " + knob.metadata["valid"]
    return ("an integer " if knob.type is int else "a number ") + knob.metadata["valid"]
