"""Convert the three mask heads between the variables of the authors' code and this implementation.

The authors' code (github.com/tensorflow/tpu 7dc921f, models/official/detection) keeps variables in TensorFlow's files.
What is read and written here are numpy archives of them, which need no TensorFlow to be read, a name an array:

    reader = tf.train.load_checkpoint(FOLDER)
    names = [name for name in reader.get_variable_to_shape_map() if "_mask/" in name]
    np.savez("mask_heads.npz", **{name: reader.get_tensor(name) for name in names})

Their detector, a RetinaNet, has no counterpart here; variables of other scopes and of the optimiser are refused.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import re
from pathlib import Path

import numpy as np
import torch

from pipeline import methods
from pipeline.artifacts import files
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.shared.shapemask.head import CoarseMask, FineMask, ShapePrior
from pipeline.methods.shared.sizes import Sizes

PLACE = "roi_head.mask_head."  # of our mask head in the whole model
SCOPES = {"prior_mask": "prior", "coarse_mask": "coarse", "fine_mask": "fine"}
FROZEN = {"frozen_stages": 1, "norm_eval": True, "style": "pytorch"}
BACKBONES = {"r50": {"type": "ResNet", "depth": 50}, "r101": {"type": "ResNet", "depth": 101}}
RELEASED = "r101"  # of the rows that the authors give numbers of
# (layer of theirs, layer of ours); what follows names the tensor
LAYERS = (
    (r"dense", r"dense"),
    (r"dense_1", r"classify"),
    (r"class-(\d+)", r"decoder.convs.\1"),
    (r"class-(\d+)-bn", r"decoder.norms.\1"),
    (r"class-predict", r"decoder.predict"),
    (r"conv2d_transpose", r"decoder.upsample"),
)
TENSORS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
NORM = {"weight": "gamma", "bias": "beta"}
LEFT_OUT = ("num_batches_tracked", "prior.centres")  # no variables: a count that nothing reads, and a file of its own


def our_key(variable: str) -> str | None:
    """Our name, within the mask head, of a variable of theirs; None if it has no counterpart."""
    scope, _, rest = variable.partition("/")
    layer, _, tensor = rest.rpartition("/")
    for theirs, ours in LAYERS:
        if scope in SCOPES and tensor in TENSORS and (match := re.fullmatch(theirs, layer)):
            return f"{SCOPES[scope]}.{match.expand(ours)}.{TENSORS[tensor]}"
    return None


def released_key(key: str) -> str | None:
    """Their name of one of our parameters or buffers within the mask head; None if it has no counterpart."""
    scope = next((theirs for theirs, ours in SCOPES.items() if key.startswith(f"{ours}.")), None)
    if scope is None or key.endswith(LEFT_OUT):
        return None
    layer, _, tensor = key.partition(".")[2].rpartition(".")
    if match := re.fullmatch(r"decoder\.(convs|norms)\.(\d+)", layer):
        theirs = f"class-{match[2]}" + ("-bn" if match[1] == "norms" else "")
    else:
        theirs = {"dense": "dense", "classify": "dense_1", "decoder.predict": "class-predict"}.get(layer)
        theirs = "conv2d_transpose" if layer == "decoder.upsample" else theirs
    if theirs is None:
        return None
    names = NORM if theirs.endswith("-bn") else {"weight": "kernel", "bias": "bias"}
    names = names | {"running_mean": "moving_mean", "running_var": "moving_variance"}
    return f"{scope}/{theirs}/{names[tensor]}"


def our_layout(array: torch.Tensor) -> torch.Tensor:
    """A tensor of theirs with our axes: dense [in, out], convolutions [row, column, in, out], transposed [.., out, in].

    Both kinds of convolution come out right by the same order: torch's transposed ones have [in, out, row, column].
    """
    return {2: lambda t: t.T, 4: lambda t: t.permute(3, 2, 0, 1)}.get(array.ndim, lambda t: t)(array)


def released_layout(tensor: torch.Tensor) -> torch.Tensor:
    """The inverse of `our_layout`."""
    return {2: lambda t: t.T, 4: lambda t: t.permute(2, 3, 1, 0)}.get(tensor.ndim, lambda t: t)(tensor)


def heads_of(shapes: dict) -> torch.nn.ModuleDict:
    """The three heads of the sizes that their variables have; values are not set.

    Args:
        shapes: {name of a variable: shape}.

    Raises:
        ExperimentError: a variable that tells a size is missing.
    """
    try:
        in_channels, channels = shapes["prior_mask/dense/kernel"]
        outputs = shapes["prior_mask/dense_1/kernel"][1]
        classes = shapes["coarse_mask/class-predict/kernel"][3]
    except (KeyError, IndexError, ValueError):
        raise ExperimentError(
            "prior_mask/dense/kernel, prior_mask/dense_1/kernel or coarse_mask/class-predict/kernel is missing or has "
            "other dimensions; save the variables of the scopes prior_mask, coarse_mask and fine_mask"
        ) from None
    convs = {
        scope: len([name for name in shapes if re.fullmatch(rf"{scope}/class-\d+/kernel", name)])
        for scope in ("coarse_mask", "fine_mask")
    }
    upsample = shapes.get("fine_mask/conv2d_transpose/kernel")
    shared = {"classes": classes, "norm": {"momentum": 0.003, "synced": False}}
    return torch.nn.ModuleDict(
        {
            "prior": ShapePrior(in_channels, channels, outputs // classes, 1, classes),
            "coarse": CoarseMask(channels, convs=convs["coarse_mask"], upsampling=1, **shared),
            "fine": FineMask(channels, convs=convs["fine_mask"], upsampling=upsample[0] if upsample else 1, **shared),
        }
    )


def variables_of(heads) -> dict[str, torch.Tensor]:
    """{name of a variable: tensor of ours with their axes} of the parts `prior`, `coarse`, `fine` of a module."""
    state = {key: tensor for key, tensor in heads.state_dict().items() if released_key(key)}
    return {released_key(key): released_layout(tensor) for key, tensor in state.items()}


def converted(variables: dict[str, torch.Tensor], where) -> dict[str, torch.Tensor]:
    """The state of a mask head, our names within it, from all variables of the three heads.

    Raises:
        ExperimentError: names those that are not mapped, missing or of another shape.
    """
    with torch.device("meta"):
        try:
            expected = variables_of(heads_of({name: tuple(value.shape) for name, value in variables.items()}))
        except ExperimentError as error:
            raise ExperimentError(f"{where}: {error}") from None
    problems = [f"not mapped: {name}" for name in variables if name not in expected]
    problems += [f"missing: {name}" for name in expected if name not in variables]
    problems += [
        f"{name}: shape {tuple(variables[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in variables and variables[name].shape != tensor.shape
    ]
    if problems:
        raise ExperimentError(f"{where}: does not fit the mask heads; " + "; ".join(problems))
    return {our_key(name): our_layout(value).contiguous() for name, value in variables.items()}


def convert(path: Path, out: Path, reverse: bool = False) -> str:
    """Convert the mask heads in a file, strictly: every variable is mapped, or the error names those that are not.

    Args:
        path: numpy archive of their variables; with `reverse` a checkpoint of ours, of which other parts of the model
            are passed over.
        out: file to write, of the other kind; appears only when complete.
        reverse: from this implementation to the released code.

    Returns:
        The backbone that the released numbers are of.

    Raises:
        ExperimentError: the file cannot be read, or its names or shapes are not those of the mask heads.
    """
    if reverse:
        state = {key.removeprefix(PLACE): value for key, value in _state(path).items() if key.startswith(PLACE)}
        variables = {released_key(key): released_layout(value) for key, value in state.items() if released_key(key)}
        if odd := [key for key in state if not released_key(key) and not key.endswith(LEFT_OUT)]:
            raise ExperimentError(f"{path}: does not fit the mask heads; not mapped: {', '.join(odd)}")
        converted(variables, path)
        with files.writing(Path(out)) as file:
            np.savez(file, **{name: value.contiguous().numpy() for name, value in variables.items()})
        return RELEASED
    state = {PLACE + key: value for key, value in converted(_variables(path), path).items()}
    with files.writing(Path(out)) as file:
        torch.save({"state_dict": state, "meta": {"CLASSES": classes()}}, file)
    return RELEASED


def _variables(path):
    try:
        with np.load(path) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except FileNotFoundError:
        raise ExperimentError(f"{path}: no such file") from None
    except Exception as error:  # a file of another kind may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExperimentError(
            f"{path}: no numpy archive of variables ({reason}); save them with numpy.savez, a name an array"
        ) from None


def _state(path):
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ExperimentError(f"{path}: no such file") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExperimentError(f"{path}: cannot be read as a checkpoint of tensors alone ({reason})") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(key.startswith(PLACE) for key in state):
        raise ExperimentError(f"{path}: holds no {PLACE}*; name a checkpoint of a run of method shapemask")
    return state


def renamed(state: dict) -> dict | None:
    """A state of the mask heads in our names; None for any other.

    Files of torch with the names of their variables do not exist, but converted ones are known by their heads.
    """
    ours = [key for key in state if key.startswith((f"{PLACE}prior.", f"{PLACE}coarse.", f"{PLACE}fine."))]
    return state if ours and len(ours) == len(state) else None


def classes() -> tuple[str, ...]:
    """The classes of the released numbers."""
    return label_set("coco").names


def configuration(state: dict, path: Path) -> dict:
    """The model configuration for a state of mask heads, with the released backbone."""
    return configuration_of(RELEASED)


def configuration_of(backbone: str) -> dict:
    """The full-size model configuration with one of `BACKBONES`."""
    method = methods.method("shapemask")
    knobs = method.load_knobs(method.pinned(), method.knob_file.name)
    methods.register("shapemask", knobs)
    return method.model(knobs, Sizes(), {**BACKBONES[backbone], **FROZEN}, len(classes()))
