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


def declaration(trained):
    """How a `reading.Checkpoint` is declared as initial weights, as YAML in one line."""
    line = starting.declaration(trained.path)
    if trained.method in (None, recipe.map_of({})):
        return line
    return line.removesuffix("}") + f", names: {trained.method}}}"
