"""What `commands.complete` does with its options: which filler, of which file, on which images."""

from pipeline.declaration import subsets
from pipeline.errors import ExperimentError
from pipeline.inference import fillers, models, quality
from pipeline.inference.complete import Annotations, complete

ROWS = ("model", "refined", "filled_box", "grabcut", "sam")  # of `--by`
TRAINED = {"model", "refined"}  # those that a run or checkpoint makes


def completed(args):
    """Write the completed file; returns what to print. Raises ExperimentError for options that do not fit."""
    for name in ("images", "annotations", "out"):
        if getattr(args, name) is None:
            raise ExperimentError(f"--{name} is missing; give it a {'folder' if name == 'images' else 'file'}")
    if len(args.by or ["model"]) > 1:
        raise ExperimentError(
            f"--by {' '.join(args.by)}: a file is completed by one of them; compare several: --compare"
        )
    annotations = Annotations(args.annotations, args.keep_rectangles)
    (filler,) = _fillers(args, args.by or ["model"], _detector(args, args.by or ["model"])).values()
    return complete(annotations, args.images, filler, args.out, args.classes, args.form, args.force)


def compared(args):
    """Compare fillers on objects with known masks; returns the table in Markdown.

    The objects are those of the classes that were asked for, else of the run's novel ones, else all with a mask.
    """
    rows = args.by or [row for row in ROWS if (row != "sam" or args.segmenter) and (row not in TRAINED or args.model)]
    detector = _detector(args, rows)
    path, images = args.annotations, args.images
    if path is None and detector is not None and detector.dataset is not None:
        subset = subsets.validation(detector.dataset)
        path, images = subset.annotations, images or subset.images
    if path is None or images is None:
        raise ExperimentError("--compare: name the file and the folder of its images: --annotations FILE --images DIR")
    annotations = Annotations(path, args.keep_rectangles)
    novel = [name for name in detector.novel if name in annotations.names.values()] if detector else []
    classes = annotations.chosen(args.classes or novel or None)
    found = quality.overlaps(annotations, images, _fillers(args, rows, detector), classes, args.most)
    table = quality.table(found).to_markdown(index=False, floatfmt=".3f")
    which = "novel classes" if novel and not args.classes else f"{len(classes)} classes"
    return f"{table}\nOverlap of masks made from boxes with the known ones, {which}; sd: over objects."


def _detector(args, rows):
    if TRAINED.isdisjoint(rows):
        return None
    if args.model is None:
        raise ExperimentError("name a run or a checkpoint, or choose what needs none: --by filled_box")
    return models.load(args.model, args.seed, args.dataset)


def _fillers(args, rows, detector):
    if "sam" in rows and not args.segmenter:
        raise ExperimentError("--by sam: name the ONNX file of a segmenter: --segmenter FILE")
    make = {
        "model": lambda: fillers.Model(detector),
        "refined": lambda: fillers.Refined(fillers.Model(detector)),
        "filled_box": fillers.FilledBox,
        "grabcut": fillers.GrabCut,
        "sam": lambda: fillers.Segmenter(args.segmenter),
    }
    return {row: make[row]() for row in rows}
