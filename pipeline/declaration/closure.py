"""Which code a training or a prediction runs: the modules that it imports, found without importing one, and a digest of
each one's syntax tree.

A digest ignores what cannot change a number: comments, docstrings, positions, the words of a raised error and of a
logged line. The packages of the environment are not looked into.
"""

import ast
import functools
import hashlib
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.artifacts import paths
from pipeline.errors import ExperimentError

PACKAGE = "pipeline"

# Modules that no identity has a part in, nor what they alone import, and why.
EXCLUDED = {
    "pipeline": "ties the process to its parent",
    "pipeline.compat": "declares operators that nothing calls",
    "pipeline.errors": "words",
    "pipeline.redaction": "words",
    "pipeline.processes": "signals",
    "pipeline.hardware": "the machine's settings, which change numbers by rounding alone",
    "pipeline.artifacts": "a package without code",
    "pipeline.artifacts.*": "where and how files are written; what they hold is decided elsewhere",
    "pipeline.datasets.images": "refuses images and changes none",
    "pipeline.declaration": "a package without code",
    "pipeline.declaration.closure": "its effect is the identity",
    "pipeline.declaration.recipe": "its effect is the identity",
    "pipeline.declaration.config": "its effect is the resolved configuration",
    "pipeline.declaration.experiments": "its effect is the resolved configuration",
    "pipeline.declaration.knobs": "its effect is the resolved configuration",
    "pipeline.declaration.label_sets": "its effect is in the configuration, the manifest and the split, which agree",
    "pipeline.declaration.subsets": "its effect is in the manifest",
    "pipeline.methods": "finds rooms",
    "pipeline.methods.*.model": "its effect is the resolved configuration",
    "pipeline.methods.shared.sizes": "its effect is the resolved configuration",
    "pipeline.methods.shared.two_stage": "its effect is the resolved configuration",
    "pipeline.tasks": "finds rooms",
    "pipeline.tasks.*.steps": "its effect is the resolved configuration",
}
ROOMS = ("pipeline.methods", "pipeline.tasks")  # the `__init__` of a room declares: names, labels, configurations


def is_excluded(module):
    """Whether a module has no part in an identity unless it is named as a root."""
    package, _, room = module.rpartition(".")
    return package in ROOMS and "." not in room or any(fnmatchcase(module, pattern) for pattern in EXCLUDED)


def closure(roots, without=()):
    """{module: digest} of all code that importing some modules runs.

    Args:
        roots: names of modules below `pipeline`; what they import is followed, inside of functions too, except into
            excluded modules.
        without: further modules that are not followed.

    Raises:
        ExperimentError: a root does not exist, or a file is no Python.
    """
    found, waiting = {}, []
    for root in sorted(roots):
        if source(root) is None:
            raise ExperimentError(f"{root}: no such module; name one below {paths.ROOT / PACKAGE}")
        waiting.append(root)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = source(module)
        found[module], imported = _read(path, module, path.stat().st_mtime_ns, path.stat().st_size)
        waiting += (name for name in imported if not is_excluded(name) and name not in without and source(name))
    return dict(sorted(found.items()))


def digest(content):
    """Hex digest of text."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def source(module):
    """The file of a module of this project, None if the name is none of its modules."""
    if module != PACKAGE and not module.startswith(f"{PACKAGE}."):
        return None
    path = paths.ROOT.joinpath(*module.split("."))
    for candidate in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _read(path: Path, module, time, size):
    """Digest of a module, and the names that it imports; time and size tell an edited file from the one before."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise ExperimentError(f"{path}: line {error.lineno}: {error.msg}; mend it") from None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return digest(canonical(tree)), tuple(_imported(tree, package, module))


def _imported(tree, package, module):
    """Names of what a module imports, and of the packages on the way, which run as well; some are no modules."""
    names = [module]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    for name in names:
        parts = name.split(".")
        if parts[0] == PACKAGE:
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def canonical(node):
    """A syntax tree as text that is the same for the same meaning, whichever version of Python parsed it."""
    if isinstance(node, ast.AST):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            return f"(Raise {canonical(node.exc.func)})"
        fields = [f"{name}={canonical(value)}" for name, value in _fields(node) if value not in (None, [])]
        return f"({type(node).__name__} {' '.join(fields)})"
    if isinstance(node, list):
        return f"[{' '.join(canonical(item) for item in node if not _is_said(item))}]"
    return f"{type(node).__name__}:{node!r}"


def _fields(node):
    for name, value in ast.iter_fields(node):
        if name in ("ctx", "kind", "type_comment"):
            continue
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if name == "body" and documented and ast.get_docstring(node, clean=False) is not None:
            value = value[1:]
        yield name, value


def _is_said(statement):
    """Whether a statement only logs."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "logger"
    )
