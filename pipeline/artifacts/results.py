"""Results of a run on disk: its scores, a digest of them, and the digest of the predictions that were scored.

Both are looked at whenever they are read: a changed byte never becomes another number. Files without a digest, as
other tools write them, are read as they are.
"""

import hashlib
import json

from pipeline.artifacts import files, paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError

DIGEST = "digest"


def write(dataset, run_name, content):
    """Write results/<dataset>/<run>.json.

    Args:
        content: JSON object with `run`, `dataset` and `per_seed`; `predictions` of a seed is the digest of its file.
    """
    files.write_json(paths.results(dataset, run_name), content | {DIGEST: _digest(content)})


def read(dataset, run_name):
    """The results of a run, or None if there are none.

    Raises:
        ExperimentError: the file is not what was written, or of another run.
    """
    path = paths.results(dataset, run_name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise malformed(path, run_name, f"not JSON ({error})") from None
    if not isinstance(content, dict):
        raise malformed(path, run_name, "it has not the structure of a result")
    written = content.pop(DIGEST, None)
    if written is not None:
        if _digest(content) != written:
            raise malformed(path, run_name, "its content is not what was written")
        for key, expected in (("run", run_name), ("dataset", dataset)):
            if content.get(key) != expected:
                raise malformed(path, run_name, f"field {key}: {content.get(key)!r}, expected {expected!r}")
    return content


def read_predictions(dataset, run_name, seed):
    """The predictions of a seed, COCO result records, as they were scored; None if there are none.

    Raises:
        ExperimentError: they are not those whose scores the results hold.
    """
    path = paths.predictions(dataset, run_name, seed)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    scored = [
        entry.get("predictions")
        for entry in (read(dataset, run_name) or {}).get("per_seed", ())
        if entry.get("seed") == seed
    ]
    if scored and scored[0] and hashlib.sha256(content).hexdigest() != scored[0]:
        raise malformed(path, run_name, "its content is not what was scored")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise malformed(path, run_name, f"not JSON ({error})") from None


def predictions_digest(dataset, run_name, seed):
    """Hex digest of the predictions of a seed, to be kept with their scores; None if there are none."""
    path = paths.predictions(dataset, run_name, seed)
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def malformed(path, run_name, what):
    """The error for a file of an evaluation; DVC makes it anew once it is gone."""
    make = experiments.repro("evaluate", run_name)
    return ExperimentError(f"{path.relative_to(paths.ROOT)}: {what}; remove the file and run `{make}`")


def _digest(content):
    plain = json.loads(json.dumps(content))  # keys and sequences as they will be read
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
