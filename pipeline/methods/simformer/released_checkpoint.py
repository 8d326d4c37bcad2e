"""Convert checkpoints between the authors' released code and this implementation.

The names there are Detectron2's, here MMDetection's. Files of MaskFormer's model zoo (FullyOracle) read as well: they
have no pairs, and the older ones leave `pixel_decoder.` out of their names.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import io
import pickle
import re
from pathlib import Path

import numpy as np
import torch
from mmcv import ConfigDict
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import files
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.simformer.sizes import Sizes

HEAD, PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
LAYER = f"{PREDICTOR}transformer.decoder.layers."
PAIRS = "criterion.cro_pixel_sim_net."
# (released, ours), with the groups of each other's patterns; numbers that differ stand in `_shifted`.
NAMES = (
    ("backbone.stem.conv1.norm.", "backbone.bn1."),
    ("backbone.stem.conv1.", "backbone.conv1."),
    *((f"backbone.res{stage}.", f"backbone.layer{stage - 1}.") for stage in range(2, 6)),
    *(
        (f"{HEAD}adapter_{level}.norm.", f"panoptic_head.pixel_decoder.lateral_convs.{level - 1}.gn.")
        for level in (1, 2, 3)
    ),
    *(
        (f"{HEAD}adapter_{level}.", f"panoptic_head.pixel_decoder.lateral_convs.{level - 1}.conv.")
        for level in (1, 2, 3)
    ),
    *(
        (f"{HEAD}layer_{level}.norm.", f"panoptic_head.pixel_decoder.output_convs.{level - 1}.gn.")
        for level in (1, 2, 3)
    ),
    *((f"{HEAD}layer_{level}.", f"panoptic_head.pixel_decoder.output_convs.{level - 1}.conv.") for level in (1, 2, 3)),
    (f"{HEAD}layer_4.norm.", "panoptic_head.pixel_decoder.last_feat_conv.gn."),
    (f"{HEAD}layer_4.", "panoptic_head.pixel_decoder.last_feat_conv.conv."),
    (f"{HEAD}mask_features.", "panoptic_head.pixel_decoder.mask_feature."),
    (f"{PREDICTOR}input_proj.", "panoptic_head.decoder_input_proj."),
    (f"{PREDICTOR}class_embed.", "panoptic_head.cls_embed."),
    *((f"{PREDICTOR}mask_embed.layers.{layer}.", f"panoptic_head.mask_embed.{2 * layer}.") for layer in range(3)),
    (f"{PREDICTOR}query_embed.", "panoptic_head.query_embed."),
    (f"{PREDICTOR}transformer.decoder.norm.", "panoptic_head.transformer_decoder.post_norm."),
    (LAYER, "panoptic_head.transformer_decoder.layers."),
    ("criterion.empty_weight", "panoptic_head.empty_weight"),
    ("criterion.ingore_th", "panoptic_head.complementary_floor"),
    (f"{PAIRS}fc_branch.layers.block", "panoptic_head.pixel_pairs.net.blocks."),
    (f"{PAIRS}out_head.", "panoptic_head.pixel_pairs.net.classify."),
)
# Behind the number of a block or layer, where the prefixes above are: (released, ours).
WITHIN = {
    "backbone.res": (
        *((f".conv{conv}.norm.", f".bn{conv}.") for conv in (1, 2, 3)),
        (".shortcut.norm.", ".downsample.1."),
        (".shortcut.", ".downsample.0."),
    ),
    LAYER: (
        (".self_attn.", ".attentions.0.attn."),
        (".multihead_attn.", ".attentions.1.attn."),
        (".linear1.", ".ffns.0.layers.0.0."),
        (".linear2.", ".ffns.0.layers.1."),
        *((f".norm{norm}.", f".norms.{norm - 1}.") for norm in (1, 2, 3)),
    ),
    PAIRS: (
        (".layer1.", ".conv1."),
        (".layer2.", ".conv2."),
        (".bn1.", ".norm1."),
        (".bn2.", ".norm2."),
        (".sqz.", ".squeeze."),
    ),
}
# Ours alone: counters that nothing reads, and the class balance, which the released code does not save.
OURS_ALONE = re.compile(r"backbone\..*\.num_batches_tracked|panoptic_head\.pixel_pairs\.balance\.counts")
# What a file of the released code may lack, as no prediction reads it: FullyOracle has no complementary loss.
UNREAD = re.compile(rf"{OURS_ALONE.pattern}|panoptic_head\.complementary_floor")
OF_PAIRS = "panoptic_head.pixel_pairs."

# What no other model has; the same query embedding under our names is MMDetection's MaskFormer, too.
MARK_THEIRS, MARK_OURS = f"{PREDICTOR}query_embed.weight", "panoptic_head.complementary_floor"
OLD_NAMES = re.compile(r"sem_seg_head\.(?!predictor\.|pixel_decoder\.)")
CLASSIFIER = "panoptic_head.cls_embed.weight"
BACKBONES = {"r50": 50, "r101": 101}
LABEL_SETS = {171: "coco_stuff", 150: "ade20k"}


def our_key(key: str) -> str | None:
    """Return our name of a released parameter or buffer, None if it has no counterpart."""
    return _renamed(OLD_NAMES.sub(HEAD, key), theirs=0, ours=1)


def released_key(key: str) -> str | None:
    """Return the released name of one of our parameters or buffers, None if it has no counterpart."""
    return None if OURS_ALONE.fullmatch(key) else _renamed(key, theirs=1, ours=0)


def _renamed(key, theirs, ours):
    for pair in NAMES:
        if not key.startswith(pair[theirs]):
            continue
        rest = key[len(pair[theirs]) :]
        within = next((rules for prefix, rules in WITHIN.items() if pair[0].startswith(prefix)), ())
        for rule in within:
            if rule[theirs] in rest:
                rest = rest.replace(rule[theirs], rule[ours], 1)
                break
        return pair[ours] + rest
    return None


def released_model(num_classes: int = 171, backbone: str = "r50", sizes: Sizes | None = None, **knobs):
    """Build the model of the released configuration, some knobs replaced; its weights are not set.

    Args:
        num_classes: 171 of COCO-Stuff, 150 of ADE20K.
        backbone: one of `BACKBONES`.
        sizes: of the paper by default.
    """
    return build_detector(ConfigDict(released_config(num_classes, backbone, sizes, **knobs)))


def released_config(num_classes: int = 171, backbone: str = "r50", sizes: Sizes | None = None, **knobs) -> dict:
    """Resolve the released configuration, and make its types known; arguments as of `released_model`."""
    method = methods.method("simformer")
    chosen = method.preset("released", **knobs)
    methods.register("simformer", chosen)
    layers = {
        "type": "ResNet",
        "depth": BACKBONES[backbone],
        "frozen_stages": -1,
        "norm_eval": True,
        "style": "pytorch",
    }
    return method.model(chosen, sizes or Sizes(), layers, num_classes)


def renamed(state: dict) -> dict | None:
    """Give a state of the released code our names, one that was converted as it is; None for any other."""
    if MARK_OURS in state:
        return state
    if MARK_THEIRS not in state:
        return None
    return {our_key(key) or key: tensor for key, tensor in state.items()}


def classes(num_classes: int = 171) -> tuple[str, ...]:
    """The classes of the released checkpoints."""
    return label_set(LABEL_SETS[num_classes]).names


def classes_of(state: dict) -> tuple[str, ...] | None:
    """The classes of a state in our names, by their number; None of one that no released checkpoint has."""
    name = label_set_of(state)
    return label_set(name).names if name else None


def label_set_of(state: dict) -> str | None:
    """Name of the label set of a state in our names, as of `classes_of`."""
    return LABEL_SETS.get(len(state[CLASSIFIER]) - 1) if CLASSIFIER in state else None


def configuration(state: dict, path: Path) -> dict:
    """The model configuration of a state in our names. Raises ExperimentError for an unknown one."""
    backbone, num_classes, pairs = _kind(state, path)
    return released_config(num_classes, backbone, **pairs)


def convert(path: Path, out: Path, reverse: bool = False) -> str:
    """Convert a checkpoint file, strictly: every key is mapped, or the error names those that are not.

    What only this implementation keeps (the class balance of the last iterations) starts anew.

    Args:
        path: file with a state dict, bare or under 'state_dict' or 'model'; also Detectron2's pickles of arrays.
        out: file to write; appears only when complete.
        reverse: from this implementation to the released code.

    Returns:
        The backbone that the file is of.

    Raises:
        ExperimentError: the file cannot be read, or its keys or shapes are not those of a known model.
    """
    state = _load(path)
    ours = state if reverse else {our_key(key) or key: tensor for key, tensor in state.items()}
    backbone, num_classes, pairs = _kind(ours, path)
    expected = released_model(num_classes, backbone, **pairs).state_dict()
    wanted = {key: tensor for key, tensor in expected.items() if released_key(key)}
    if not reverse:  # the zoo's models have no constant of a loss that they were not trained with
        ours = {MARK_OURS: wanted[MARK_OURS]} | ours
    _compare({key: tensor for key, tensor in ours.items() if not OURS_ALONE.fullmatch(key)}, wanted, path, backbone)
    if reverse:
        converted = {released_key(key): ours[key].clone() for key in wanted}
        content = {"model": converted}
    else:
        content = {"state_dict": {key: ours.get(key, tensor).clone() for key, tensor in expected.items()}, "meta": {}}
    with files.writing(Path(out)) as file:
        torch.save(content, file)
    return backbone


def _kind(state, path):
    """Backbone, number of classes and the knobs of a state in our names."""
    if CLASSIFIER not in state or state[CLASSIFIER].ndim != 2:
        raise ExperimentError(f"{path}: no {MARK_THEIRS} and no {CLASSIFIER}; expected SimFormer or MaskFormer weights")
    backbone = "r101" if "backbone.layer3.22.conv1.weight" in state else "r50"
    pairs = {} if any(key.startswith(OF_PAIRS) for key in state) else {"pairs": "none"}
    return backbone, len(state[CLASSIFIER]) - 1, pairs


class _Arrays(pickle.Unpickler):
    """Reads arrays of numbers and plain containers, and nothing that could run."""

    KNOWN = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
    }

    def find_class(self, module, name):
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _load(path):
    try:
        content = Path(path).read_bytes()
        if content[:2] == b"PK" or Path(path).suffix != ".pkl":
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        else:
            checkpoint = _Arrays(io.BytesIO(content)).load()
    except FileNotFoundError:
        raise ExperimentError(f"{path}: no such file") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExperimentError(f"{path}: cannot be read as a checkpoint of tensors alone ({reason})") from error
    state = checkpoint if isinstance(checkpoint, dict) else {}
    for name in ("state_dict", "model"):
        state = state.get(name, state) if isinstance(state, dict) else {}
    numbers = (torch.Tensor, np.ndarray, np.generic, float, int)
    if not isinstance(state, dict) or not state or not all(isinstance(t, numbers) for t in state.values()):
        raise ExperimentError(f"{path}: holds no state dict (names to tensors, bare or under 'state_dict' or 'model')")
    return {key.removeprefix("module."): torch.as_tensor(tensor) for key, tensor in state.items()}


def _compare(state, expected, path, backbone):
    problems = [f"not mapped: {key}" for key in state if key not in expected]
    problems += [f"missing: {key}" for key in expected if key not in state]
    problems += [
        f"{key}: shape {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        raise ExperimentError(f"{path}: does not fit the {backbone} model; " + "; ".join(problems))
