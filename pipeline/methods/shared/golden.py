"""What the `golden` modules of methods are made of: arrays of other code, read, compared and told about.

Imported by no training, so nothing here is part of a run's identity.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ExperimentError


@dataclass
class Check:
    """One array compared.

    Attributes:
        fixture, array: names.
        absolute, relative: largest difference, and that divided by the largest absolute expected value.
        tolerance: what `absolute` may be; 0 for sets and counts.
        margin: largest share of the tolerance that a difference takes, element by element; above 1 it is beyond.
        ok: whether it is within.
        note: why not, where it is no matter of size.
    """

    fixture: str
    array: str
    absolute: float
    relative: float
    tolerance: float
    margin: float
    ok: bool
    note: str = ""

    def __str__(self):
        return (
            f"{'ok  ' if self.ok else 'FAIL'} {self.fixture:<22} {self.array:<34} abs {self.absolute:.2e}  "
            f"rel {self.relative:.2e}  tolerance {self.tolerance:.2e}  margin {self.margin:.3f} "
            f"{self.note}"
        ).rstrip()


def compare(fixture: str, array: str, ours, theirs, tolerance: float, absolute=0.0) -> Check:
    """Compare numbers; a difference may be `tolerance` times the largest absolute expected value plus `absolute`.

    Args:
        fixture, array: names, for the line.
        ours, theirs: tensors, arrays or numbers of one shape, ours and the expected ones; compared in float64.
        tolerance, absolute: as above; `absolute` may differ from element to element.

    Returns:
        The check; another shape, or a number that is not finite, on either side, fails it.
    """
    ours, theirs = as_numpy(ours), as_numpy(theirs)
    if ours.shape != theirs.shape:
        return _misshapen(fixture, array, ours, theirs)
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    strange = int((~np.isfinite(ours)).sum()), int((~np.isfinite(theirs)).sum())
    if any(strange):
        note = f"({strange[0]} of our {ours.size} numbers, {strange[1]} of the expected ones are not finite)"
        return Check(fixture, array, math.inf, math.inf, tolerance, math.inf, False, note)
    largest = np.abs(theirs).max(initial=0)
    difference = np.abs(ours - theirs)
    allowed = np.broadcast_to(tolerance * largest + np.asarray(absolute), difference.shape)
    worst = difference.max(initial=0)
    shares = np.divide(difference, allowed, out=np.where(difference == 0, 0.0, np.inf), where=allowed > 0)
    return Check(
        fixture,
        array,
        float(worst),
        float(worst / (largest or 1)),
        float(allowed.max(initial=0)),
        float(shares.max(initial=0)),
        bool((difference <= allowed).all()),
    )


def exact(fixture: str, array: str, ours, theirs) -> Check:
    """Compare sets, counts, labels or flags, which must be the same; arguments and what is returned as of `compare`."""
    ours, theirs = as_numpy(ours), as_numpy(theirs)
    if ours.shape != theirs.shape:
        return _misshapen(fixture, array, ours, theirs)
    wrong = int((ours != theirs).sum())
    note = f"({wrong} of {theirs.size} differ)" if wrong else ""
    share = wrong / max(theirs.size, 1)
    return Check(fixture, array, wrong, share, 0, math.inf if wrong else 0.0, wrong == 0, note)


def holds(fixture: str, what: str, ok: bool, note: str = "") -> Check:
    """Record a property, such as that two lists of names are the same."""
    failed = 0.0 if ok else 1.0
    return Check(fixture, what, failed, failed, 0, 0.0 if ok else math.inf, bool(ok), note)


@dataclass
class Tally:
    """What many checks found.

    Attributes:
        checks, failed: how many there were, and are beyond tolerance.
        relative: largest relative difference.
        worst: fixture -> its check that takes most of its tolerance.
    """

    checks: int = 0
    failed: int = 0
    relative: float = 0.0
    worst: dict[str, Check] = field(default_factory=dict)

    def add(self, check: Check):
        """Count one."""
        self.checks += 1
        self.failed += not check.ok
        self.relative = max(self.relative, check.relative)
        known = self.worst.get(check.fixture, check)
        self.worst[check.fixture] = max(known, check, key=lambda check: check.margin)

    def __str__(self):
        lines = [f"worst of {c.fixture}: {c.array}, {c.margin:.3f} of its tolerance" for c in self.worst.values()]
        last = f"checks={self.checks} failed={self.failed} worst_relative={self.relative:.2e}"
        if self.worst:
            check = max(self.worst.values(), key=lambda check: check.margin)
            last += f" worst_margin={check.margin:.3f} ({check.fixture}: {check.array})"
        return "\n".join([*lines, last])


@dataclass
class Fixture:
    """Arrays of one file, the directory it lies in, and what was found about them; `read` are those that took part."""

    name: str
    arrays: dict
    directory: Path = Path()
    checks: list[Check] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def __getitem__(self, array: str) -> Tensor:
        """Return an array as a tensor."""
        return torch.from_numpy(np.ascontiguousarray(self.expected(array)))

    def expected(self, array: str) -> np.ndarray:
        """Return an array as it is in the file."""
        if array not in self.arrays:
            raise ExperimentError(f"{self.name}: array {array!r} is missing; there are {', '.join(self.arrays)}")
        self.read.add(array)
        return self.arrays[array]

    def close(self, array: str, got, relative: float, absolute=0.0, part=..., label: str = ""):
        """Compare numbers with `compare`.

        Args:
            array: name.
            got: our numbers.
            relative, absolute: tolerance.
            part: index of what is compared, by default all.
            label: what the part is.
        """
        expected = self.expected(array)[part]
        self.checks.append(compare(self.name, array + label, as_numpy(got)[part], expected, relative, absolute))

    def equal(self, array: str, got, part=...):
        """Compare sets, counts, labels or flags with `exact`."""
        self.checks.append(exact(self.name, array, as_numpy(got)[part], self.expected(array)[part]))

    def holds(self, what: str, ok: bool, note: str = ""):
        """Record a property."""
        self.checks.append(holds(self.name, what, ok, note))

    def tell_unread(self):
        """Say which arrays had no part in a check, as inputs that nothing needs; that there is none is a failure."""
        left = ", ".join(sorted(self.arrays.keys() - self.read))
        if left or not self.checks:
            self.holds("something is compared", bool(self.checks), f"(not read: {left[:200]})" if left else "")


def fixture_files(directory: Path) -> list[Path]:
    """The fixtures (`*.npz`, `*.json`) of a directory, sorted. Raises ExperimentError if there is none."""
    files = sorted(file for file in Path(directory).glob("*") if file.suffix in (".npz", ".json"))
    if not files:
        raise ExperimentError(f"{directory}: no fixtures (*.npz, *.json) in this directory")
    return files


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name. Raises ExperimentError if it cannot be read as such."""
    try:
        with np.load(file) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise ExperimentError(f"{file}: cannot be read as arrays ({error})") from error


def read_json(file: Path, kind: type):
    """What a JSON file holds, a `kind` (dict, list). Raises ExperimentError if it holds anything else."""
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ExperimentError(f"{file}: not JSON ({error})") from error
    if not isinstance(content, kind):
        kinds = " or ".join(each.__name__ for each in getattr(kind, "__args__", (kind,)))
        raise ExperimentError(f"{file}: holds a {type(content).__name__}, expected a {kinds}")
    return content


def _misshapen(fixture, array, ours, theirs):
    note = f"(shape {ours.shape}, expected {theirs.shape})"
    return Check(fixture, array, math.inf, math.inf, 0, math.inf, False, note)


def as_numpy(values) -> np.ndarray:
    """A tensor's values, or anything else that numpy reads; half precision becomes float32, which numpy has."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
