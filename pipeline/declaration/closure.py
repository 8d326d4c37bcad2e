"""Which code a training or a prediction runs: the modules that it imports, found without importing one, and a digest of
each one's syntax tree.

A digest ignores what cannot change a number: comments, docstrings, positions, type hints of functions, the order of
imports that stand together, the words of a raised error, of an assertion and of a logged line. The packages of the
environment are not looked into.
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
    "pipeline.declaration.strict": "refuses values and changes none",
    "pipeline.declaration.subsets": "its effect is in the manifest",
    "pipeline.methods": "finds rooms",
    "pipeline.methods.shared.authors": "its effect is the resolved configuration",
    "pipeline.methods.shared.sizes": "its effect is the resolved configuration",
    "pipeline.methods.shared.two_stage": "its effect is the resolved configuration",
    "pipeline.tasks": "finds rooms",
}
# The `__init__` of a room declares names, labels and configurations: it counts only where code imports something else.
ROOMS = ("pipeline.methods", "pipeline.tasks")
DECLARES = ("METHOD", "TASK")
ROOM = "__init__"  # ends the name under which that file counts


def is_excluded(module):
    """Whether a module has no part in an identity unless it is named as a root."""
    return _is_room(module) or any(fnmatchcase(module, pattern) for pattern in EXCLUDED)


def _is_room(module):
    path = source(module) if module.rpartition(".")[0] in ROOMS else None
    return path is not None and path.name == "__init__.py"


def closure(roots, without=()):
    """{module: digest} of all code that importing some modules runs.

    Args:
        roots: names of modules below `pipeline`; what they import is followed, inside of functions and by a text that
            names it too, except into excluded modules.
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
    except ValueError as error:  # a zero byte
        raise ExperimentError(f"{path}: {error}; mend it") from None
    package = ".".join(path.parent.relative_to(paths.ROOT).parts)
    imported = tuple(_imported(tree, package, module))
    return digest(canonical(tree)), imported


def _imported(tree, package, module):
    """Names of what a module imports, and of the packages on the way, which run as well; some are no modules."""
    names, used = [module], []  # `used`: what is not only on the way
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used += (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and source(node.value):
            used.append(node.value)  # for importlib
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                if source(f"{base}.{alias.name}"):
                    used.append(f"{base}.{alias.name}")
                else:
                    (names if alias.name in DECLARES else used).append(base)
    names += [*used, *(f"{name}.{ROOM}" for name in used if _is_room(name))]
    for name in names:
        parts = name.split(".")
        if parts[0] == PACKAGE:
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def canonical(tree):
    """A syntax tree as text that is the same for the same meaning, whichever version of Python parsed it.

    The tree is changed on the way.
    """
    return _text(_Meaning().visit(tree))


def _text(node):
    if isinstance(node, ast.AST):
        fields = [
            f"{name}={_text(value)}"
            for name, value in ast.iter_fields(node)
            if value not in (None, []) and name not in ("ctx", "kind", "type_comment")
        ]
        return f"({type(node).__name__} {' '.join(fields)})"
    if isinstance(node, list):
        return f"[{' '.join(map(_text, node))}]"
    return f"{type(node).__name__}:{node!r}"


class _Meaning(ast.NodeTransformer):
    """Takes out of a tree what cannot change a number."""

    def __init__(self):
        self.in_function = False

    def generic_visit(self, node):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        super().generic_visit(node)
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and any(isinstance(item, (ast.Import, ast.ImportFrom)) for item in value):
                setattr(node, name, _in_order(value))
        return node

    def visit_FunctionDef(self, node):
        outside, self.in_function = self.in_function, True
        if not node.decorator_list:  # which may read hints, as that of functools.singledispatch does
            node.returns = None
            arguments = node.args
            optional = [each for each in (arguments.vararg, arguments.kwarg) if each]
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *optional):
                argument.annotation = None
        self.generic_visit(node)
        self.in_function = outside
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node):
        outside, self.in_function = self.in_function, False  # the fields of a dataclass are hints
        self.generic_visit(node)
        self.in_function = outside
        return node

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        if not self.in_function:
            return node
        return ast.Assign(targets=[node.target], value=node.value) if node.value else None

    def visit_Raise(self, node):
        return ast.Raise(exc=self.visit(node.exc.func)) if isinstance(node.exc, ast.Call) else self.generic_visit(node)

    def visit_Assert(self, node):
        return ast.Assert(test=self.visit(node.test))

    def visit_Expr(self, node):
        call = node.value.func if isinstance(node.value, ast.Call) else None
        logs = isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id == "logger"
        return None if logs else self.generic_visit(node)

    def visit_ImportFrom(self, node):
        return None if node.module == "__future__" else node


def _in_order(statements):
    """Statements whose imports that stand together bind one name each, in the order of the alphabet."""
    ordered, together = [], []
    for statement in [*statements, None]:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            together += _one_by_one(statement)
            continue
        ordered += sorted(together, key=_text)
        ordered, together = [*ordered, statement], []
    return ordered[:-1]


def _one_by_one(statement):
    if isinstance(statement, ast.Import):
        return [ast.Import(names=[alias]) for alias in statement.names]
    return [ast.ImportFrom(module=statement.module, names=[alias], level=statement.level) for alias in statement.names]
