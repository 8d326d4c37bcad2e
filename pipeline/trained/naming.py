"""Which method's authors wrote a checkpoint: asked of the file, and held against what is declared.

Initial weights depend on the map of names of one method alone, so that no other one's map makes them again.
"""

from pipeline import methods
from pipeline.declaration import experiments, recipe
from pipeline.errors import ExperimentError
from pipeline.trained import reading, starting


def convert(method, file, out, reverse=False):
    """Convert a checkpoint between a method's authors' names and ours, and return the backbone that it is of.

    Args:
        method: whose `checkpoint_map` is taken.
        file, out, reverse: as of its `convert`.

    Raises:
        ExperimentError: the method has no map, or the file does not fit; if another method's fits, it is named.
    """
    room = methods.required(method, "checkpoint_map")
    try:
        return room.convert(file, out, reverse)
    except ExperimentError:
        if (other := _written_by(file)) in (None, method):
            raise
        raise ExperimentError(f"{file}: holds the names of {other}, not of {method}; add --method {other}") from None


def _written_by(file):
    """The method whose released code, or import of it, a file's names are of, None if no method knows them."""
    try:
        return reading.read(file).method
    except ExperimentError:
        return None


def require_declared(dataset):
    """Refuse initial weights of this data set that are in the names of another method's authors than is declared.

    Raises ExperimentError with the line to declare; does nothing for initial weights of other kinds.
    """
    source = experiments.load().profile(dataset)["initial_weights"]
    if source["kind"] != starting.KIND:
        return
    trained = starting.declared_file(source)
    if trained.method not in (None, recipe.map_of(source)):
        raise ExperimentError(
            f"{trained.path}: holds the names of {trained.method}; declare initial_weights: {declaration(trained)}"
        )
    require_same_images(trained)


def require_same_images(trained):
    """Refuse weights whose backbone wants other images than the models here: names and shapes do not show it.

    Raises ExperimentError.
    """
    if trained.method and _wants_blue_first(trained.method, trained):
        raise ExperimentError(
            f"{trained.path}: its backbone is that of {trained.method}'s authors, which wants images with blue first, "
            "from 0 to 255, and has its strides elsewhere; start from ImageNet weights, MMDetection's or a run of this "
            "project"
        )


def note_of_export(method, file):
    """What the authors' code has to know of a file that was trained here, in words; empty if nothing."""
    trained = reading.read(file)
    if trained.origin != reading.OWN or not _wants_blue_first(method, trained):
        return ""
    return (
        "it was trained here, on images with red first, divided by their deviation, and with strides in the 3x3 "
        "convolutions; the authors' configuration has blue first, no division and strides in the 1x1 ones: change that"
    )


def _wants_blue_first(method, trained):
    """Whether the authors of a method read images so; weights of heads alone do not tell."""
    if not any(name.startswith("backbone.") for name in trained.state):
        return False
    model = methods.required(method, "checkpoint_map").configuration(trained.state, trained.path)
    return model["backbone"]["type"] == "BlueFirstResNet"


def declaration(trained):
    """How a `reading.Checkpoint` is declared as initial weights, as YAML in one line."""
    line = starting.declaration(trained.path)
    if trained.method in (None, recipe.map_of({})):
        return line
    return line.removesuffix("}") + f", names: {trained.method}}}"
