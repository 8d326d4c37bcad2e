"""Which method's authors wrote a checkpoint: asked of the file, and held against what is declared.

Initial weights depend on the map of names of one method alone, so that no other one's map makes them again.
"""

from pipeline import methods
from pipeline.declaration import experiments, recipe
from pipeline.errors import ExperimentError
from pipeline.trained import loading, reading, starting


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
    require_startable(trained, dataset)


def require_startable(trained, dataset):
    """Refuse a `reading.Checkpoint` whose weights fit by name and shape and mean something else on a data set.

    Raises ExperimentError.
    """
    require_same_images(trained)
    require_same_maps(trained, experiments.load().label_set(dataset))


def require_same_images(trained):
    """Refuse weights whose backbone wants other images than the models here: names and shapes do not show it.

    Raises ExperimentError. A file that says nothing of its architecture is not refused.
    """
    if not any(name.startswith("backbone.") for name in trained.state):
        return
    try:
        model = trained.configuration().get("model")
    except ExperimentError:
        return
    if _wants_other_images(model):
        raise ExperimentError(
            f"{trained.path}: its backbone wants images with blue first, from 0 to 255, and has its strides in other "
            "convolutions than the models here; start from ImageNet weights, from a run of this project, or from a "
            "file of MMDetection whose backbone has `style: pytorch`"
        )


def require_same_maps(trained, labels):
    """Refuse weights of label maps of as many classes that are other ones: those of their classifier would be taken.

    Raises ExperimentError.
    """
    if trained.method is None or methods.task_of(trained.method).name == loading.INSTANCES:
        return
    classes = loading.classes_of(trained) or ()
    if len(classes) == len(labels) and tuple(classes) != labels.names:
        raise ExperimentError(
            f"{trained.path}: its {len(classes)} classes are other ones than those of label set {labels.name!r}, or in "
            "another order; start from a file of the same classes"
        )


def note_of_export(method, file):
    """What the authors' code has to know of a file that was trained here, in words; empty if nothing."""
    trained = reading.read(file)
    if trained.origin != reading.OWN or not any(name.startswith("backbone.") for name in trained.state):
        return ""
    room = methods.required(method, "checkpoint_map")
    if not _wants_other_images(room.configuration(trained.state, trained.path)):
        return ""
    return (
        "it was trained here, on images with red first, divided by their deviation, and with strides in the 3x3 "
        "convolutions; the authors' configuration has blue first, no division and strides in the 1x1 ones: change that"
    )


def _wants_other_images(model):
    """Whether a configured model reads images as Caffe did."""
    backbone = (model or {}).get("backbone") or {}
    return backbone.get("type") == "BlueFirstResNet" or backbone.get("style") == "caffe"


def declaration(trained):
    """How a `reading.Checkpoint` is declared as initial weights, as YAML in one line."""
    line = starting.declaration(trained.path)
    if trained.method in (None, recipe.map_of({})):
        return line
    return line.removesuffix("}") + f", names: {trained.method}}}"
