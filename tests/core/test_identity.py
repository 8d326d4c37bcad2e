"""What trains again after an edit, and what does not."""

import ast
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.declaration import closure, recipe
from pipeline.errors import ExperimentError
from pipeline.training import loop
from tests.e2e.clone import Clone
from tests.tiny import job

SAME = {
    "comment": ("x = 1", "# one\nx = 1  # it is"),
    "docstring of a module": ("x = 1", '"""One."""\nx = 1'),
    "docstring of a function": ("def f():\n    return 1", 'def f():\n    """One."""\n    return 1'),
    "docstring of a class": ("class A:\n    x = 1", 'class A:\n    """One."""\n\n    x = 1'),
    "layout": ("f(1, 2)", "f(\n    1,\n    2,\n)"),
    "words of an error": ("raise ValueError('a')", "raise ValueError(f'b {x}')"),
    "words of an assertion": ("assert x, 'a'", "assert x, f'b {x}'"),
    "hints of a function": ("def f(x, *, y=1):\n    z = x", "def f(x: int, *, y: float = 1) -> None:\n    z: int = x"),
    "hints that are read later": ("import a", "from __future__ import annotations\nimport a"),
    "order of imports": ("import a\nfrom b import c, d\nx = 1", "from b import d, c\nimport a\nx = 1"),
    "words of a log": ("if x:\n    logger.info('a')\n    f()", "if x:\n    logger.warning('b %s', x)\n    f()"),
}
OTHER = {
    "number": ("x = 1", "x = 2"),
    "type of a number": ("x = 1", "x = 1.0"),
    "name": ("f(x)", "f(y)"),
    "order": ("f()\ng()", "g()\nf()"),
    "kind of an error": ("raise ValueError('a')", "raise KeyError('a')"),
    "hints of fields": ("class A:\n    x: int = 1", "class A:\n    x: float = 1"),
    "hints that a decorator reads": ("@f.register\ndef _(x: int): f()", "@f.register\ndef _(x: float): f()"),
    "what is asserted": ("assert x, 'a'", "assert y, 'a'"),
    "what is imported": ("from a import f", "from b import f"),
    "under which name": ("import a as b, c as d", "import c as b, a as d"),
    "imports around a statement": ("import a\nf()\nimport b", "import b\nf()\nimport a"),
    "a text that is no docstring": ("x = 1\n'a'", "x = 1\n'b'"),
    "default": ("def f(x=1):\n    pass", "def f(x=2):\n    pass"),
}


def canonical(text):
    return closure.canonical(ast.parse(text))


@pytest.mark.parametrize("before, after", [pytest.param(*pair, id=name) for name, pair in SAME.items()])
def test_what_changes_no_number_changes_no_digest(before, after):
    assert canonical(before) == canonical(after)


@pytest.mark.parametrize("before, after", [pytest.param(*pair, id=name) for name, pair in OTHER.items()])
def test_what_may_change_a_number_changes_the_digest(before, after):
    assert canonical(before) != canonical(after)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write modules of a package `pipeline` of their own."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)

    def write(**modules):
        for name, text in modules.items():
            path = tmp_path / "pipeline" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if not (path.parent / "__init__.py").exists():
                (path.parent / "__init__.py").touch()

    return write


def test_a_closure_follows_every_form_of_import(package):
    package(
        a__root="import torch\nfrom . import near\nfrom ..b import member\nfrom pipeline.c.own import thing\n"
        "def later():\n    import pipeline.d.inside\n    importlib.import_module('pipeline.e.named')\n",
        a__near="",
        b__member="",
        b__stranger="",
        c__own="from pipeline import errors\nfrom pipeline.artifacts.files import write",
        d__inside="",
        e__named="",
        errors="from pipeline.b import stranger",
        artifacts__files="from pipeline.b import stranger",
    )
    names = ("a", "a.near", "a.root", "b", "b.member", "c", "c.own", "d", "d.inside", "e", "e.named")
    assert list(closure.closure(["pipeline.a.root"])) == [f"pipeline.{name}" for name in names]


def test_a_room_counts_where_code_imports_something_of_it(package):
    package(
        methods__opmask__model="",
        methods__opmask__head="from pipeline.methods.opmask.model import Head\nfrom pipeline.methods import flat\n",
        methods__opmask__loss="from . import THRESHOLD\n",
        methods__opmask__also="from pipeline.methods import opmask\n",
        methods__opmask__declared="from pipeline.methods.opmask import METHOD\n",
        methods__flat="",
    )
    room = paths.ROOT / "pipeline/methods/opmask/__init__.py"
    room.write_text("from .model import model\nTHRESHOLD = 0.5\nMETHOD = 1\n")
    names = ("head", "loss", "also", "declared")
    head, loss, also, declared = (closure.closure([f"pipeline.methods.opmask.{name}"]) for name in names)
    assert list(head) == ["pipeline.methods.flat", "pipeline.methods.opmask.head", "pipeline.methods.opmask.model"]
    room = ["pipeline.methods.opmask.__init__", "pipeline.methods.opmask.model"]
    assert sorted({*loss} - {"pipeline.methods.opmask.loss"}) == room
    assert sorted({*also} - {"pipeline.methods.opmask.also"}) == room
    assert list(declared) == ["pipeline.methods.opmask.declared"]


def test_a_root_that_is_no_module_is_named(package):
    package(a="")
    with pytest.raises(ExperimentError, match=r"pipeline\.b: no such module"):
        closure.closure(["pipeline.b"])


def test_every_exclusion_is_of_a_module_and_has_a_reason():
    for pattern, reason in closure.EXCLUDED.items():
        path = pattern.replace(".", "/")
        found = [*paths.ROOT.glob(f"{path}.py"), *paths.ROOT.glob(f"{path}/__init__.py")]
        assert found and reason, pattern


@pytest.mark.parametrize("text", ["def f(:", "x = 1\0"])
def test_a_module_that_is_no_python_is_named(package, text):
    package(a=text)
    with pytest.raises(ExperimentError, match=r"a\.py: .*; mend it"):
        closure.closure(["pipeline.a"])


@pytest.mark.slow
def test_a_recipe_names_what_the_training_imports(workspace):
    """Run a training in a process of its own, as `train` does, and ask it what it has imported at its end."""
    training = job(seed=11)
    (workspace / "job.json").write_text(training.to_json())
    script = (
        "import sys, json, pathlib\n"
        "from pipeline.training import loop\n"
        "from pipeline.declaration import config\n"
        "loop.train(config.Training.from_json(pathlib.Path('job.json').read_text()))\n"
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] == 'pipeline']))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=workspace, capture_output=True, text=True, check=True)
    imported = {name for name in json.loads(ran.stdout.splitlines()[-1]) if not closure.is_excluded(name)}
    named = set(recipe.of_training(training)["code"])
    assert named <= imported, "of no effect"
    for name in imported - named:
        importers = [module for module in named if name in closure._read(closure.source(module), module, 0, 0)[1]]
        assert not importers, f"{name} is imported by {importers} and is in no recipe"


@pytest.mark.parametrize("precision, matters", [("fp32", False), ("bf16", True)])
def test_what_a_method_casts_matters_where_something_is_cast(monkeypatch, precision, matters):
    training = job(precision=precision)
    before, room = recipe.of_training(training), methods.method(training.method)
    monkeypatch.setattr(methods, "method", lambda name: replace(room, autocast=room.autocast[1:]))
    assert (recipe.of_training(training) != before) == matters


def test_an_accepted_recipe_is_that_of_before(package):
    content = {"configuration": {"lr": 1}, "code": {"pipeline.a": "1"}}
    moved = {"configuration": {"lr": 1}, "code": {"pipeline.b": "1"}}
    renamed = {"configuration": {"rate": 1}, "code": {"pipeline.b": "1"}}
    package(a="")
    assert len({recipe.identity(each) for each in (content, moved, renamed)}) == 3
    first = recipe.identity(content)
    (paths.ROOT / "pipeline" / "accepted.yaml").write_text(
        f"code: {{{recipe.code_identity(moved)}: {recipe.code_identity(content)}}}"
    )
    other = recipe.identity(renamed)
    assert recipe.identity(content) == recipe.identity(moved) == first != other
    (paths.ROOT / "pipeline" / "accepted.yaml").write_text(
        f"code: {{{recipe.code_identity(moved)}: {recipe.code_identity(content)}}}\nrecipes: {{{other}: {first}}}"
    )
    assert recipe.identity(renamed) == first


@pytest.mark.parametrize(
    "text, message",
    [
        ("code: {a: b, b: c, c: a}", "leads back to itself"),
        ("codes: {a: b}", "expected `code` and `recipes`"),
        ("code: [a]", "expected `code` and `recipes`"),
        ("code: {a: 1}", "expected `code` and `recipes`"),
    ],
)
def test_a_bad_list_of_accepted_recipes_is_refused(package, text, message):
    package(a="")
    (paths.ROOT / "pipeline" / "accepted.yaml").write_text(text)
    with pytest.raises(ExperimentError, match=message):
        recipe.follow(recipe.read_accepted()["code"], "a")


@pytest.fixture
def own_copy(tiny_root, tmp_path, monkeypatch):
    """A copy of the tiny root whose code may be edited."""
    root = tmp_path / "root"
    shutil.copytree(tiny_root, root, ignore=shutil.ignore_patterns("scratch", "__pycache__"))
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(root))
    recipe.code_of.cache_clear()
    yield root
    recipe.code_of.cache_clear()


def edit(path, before, after):
    text = path.read_text()
    assert text.count(before) == 1, (path, before)
    path.write_text(text.replace(before, after))


@pytest.mark.parametrize("matters", [True, False])
def test_code_edited_while_it_trains_is_noticed(own_copy, monkeypatch, matters):
    training, edited = job(), own_copy / "pipeline/training/sampler.py"
    began = recipe.fingerprint(training)

    def train(*_):
        edited.write_text(edited.read_text() + ("\nWITH = 1\n" if matters else "\n# a comment\n"))

    monkeypatch.setattr(loop, "_train", train)
    if not matters:
        assert loop.train(training).name == began
        return
    with pytest.raises(ExperimentError, match=r"pipeline\.training\.sampler was edited while it trained.*dvc repro"):
        loop.train(training)
    assert recipe.fingerprint(replace(training, name="other")) == began, "a later seed runs what was imported"
    recipe.code_of.cache_clear()  # another process
    assert recipe.fingerprint(training) != began


class Graph:
    """A clone whose stages all count as made, and what DVC would make again after edits and new recipes."""

    def __init__(self, folder):
        self.clone = Clone(folder)
        self.clone.run(sys.executable, "-m", "stages.recipes")
        stages = self.clone.run("dvc", "status", "--json").stdout
        for stage in json.loads(stages).values():
            for change in stage:
                for path in (change.get("changed outs") or {}) if isinstance(change, dict) else ():
                    self._pretend(folder / path)
        self.clone.run("dvc", "commit", "-f")
        self.clone.commit()

    @staticmethod
    def _pretend(path):
        if path.exists():
            return
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path.name}\n")
        else:
            path.mkdir(parents=True)
            (path / "content").write_text(f"{path.name}\n")

    def edit(self, name, before, after):
        edit(self.clone.folder / name, before, after)

    def append(self, name, text):
        path = self.clone.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)

    def changed(self):
        """The stages that DVC would make."""
        self.clone.run(sys.executable, "-m", "stages.recipes")  # by DVC it would take seconds more
        return set(json.loads(self.clone.run("dvc", "status", "--json").stdout))

    def again(self):
        """The trainings that DVC would make."""
        return {name for name in self.changed() if name.split("@")[0] in ("pretrain", "train", "evaluate")}

    def undo(self):
        self.clone.run("git", "checkout", "-q", "--", "pipeline", "params.yaml")
        self.clone.run("git", "clean", "-fdq", "pipeline")


@pytest.fixture(scope="module")
def made_graph(tmp_path_factory):
    return Graph(tmp_path_factory.mktemp("graph"))


@pytest.fixture
def graph(made_graph):
    yield made_graph
    made_graph.undo()


EXPERIMENTS = "pipeline/experiments/contrastmask.yaml"
PROFILES = "pipeline/experiments/profiles.yaml"
KNOBS = "pipeline/methods/contrastmask/knobs.yaml"
LOSSES = "pipeline/methods/contrastmask/losses.py"
PINNED = ("mask_rcnn_r50_1x_nonvoc2voc", "cam_r50_1x_nonvoc2voc", "contrastmask_r50_1x_nonvoc2voc")


def made(*runs, pretrain=False):
    stages = {f"{stage}@{run}" for run in runs for stage in ("train", "evaluate")}
    return stages | {"pretrain@r50"} if pretrain else stages


@pytest.mark.slow
def test_what_looks_different_trains_nothing(graph):
    graph.append(LOSSES, "\n# a comment\n")
    graph.edit("pipeline/training/sampler.py", '"""Which images', '"""A docstring that says more. Which images')
    graph.append("pipeline/methods/opmask/__init__.py", "")
    graph.append("pipeline/methods/opmask/losses.py", "WEIGHT = 1\n")
    graph.append("pipeline/reporting/style.py", "\nWIDTH = 7\n")
    graph.edit(EXPERIMENTS, "Mask R-CNN (baseline)", "A printed label")
    graph.edit("pipeline/methods/mask_rcnn/__init__.py", 'label="Baseline"', 'label="Another"')
    graph.edit(
        PROFILES, "in fp32\n      optimizer: {type: SGD, lr: 0.02", "in fp32\n      optimizer: {type: SGD, lr: 0.04"
    )  # `full`
    assert graph.again() == set()


@pytest.mark.slow
def test_another_colour_draws_what_shows_it(graph):
    graph.edit("pipeline/methods/mask_rcnn/__init__.py", 'colour="#7f7f7f"', 'colour="#111111"')
    changed = graph.changed()
    assert {"figures@loss_curves", "tables@table2", "report"} <= changed
    assert not {
        name for name in changed if name.split("@")[0] in ("pretrain", "train", "evaluate", "split", "download")
    }


@pytest.mark.slow
def test_a_knob_trains_the_runs_whose_model_reads_it(graph):
    graph.edit(KNOBS, "\nsigma: 0.3", "\nsigma: 0.4")
    assert graph.again() == made(PINNED[2])
    graph.undo()
    graph.edit("params.yaml", "\nsigma: 0.3", "\nsigma: 0.4")
    assert graph.again() == made("current")


@pytest.mark.slow
def test_a_changed_line_trains_the_runs_that_import_it(graph):
    graph.append(LOSSES, "\nWEIGHT = 1\n")
    assert graph.again() == made(PINNED[2], "current")
    graph.undo()
    graph.append("pipeline/tasks/instances/packed_coco.py", "\nWEIGHT = 1\n")
    assert graph.again() == made(*PINNED, "current", pretrain=True)


@pytest.mark.slow
def test_a_data_step_trains_the_runs_that_have_it(graph):
    graph.edit("params.yaml", "mask_format: recipe", "mask_format: polygon")
    graph.edit("params.yaml", "supervision: all", "supervision: oracle")
    graph.append("pipeline/methods/contrastmask/oracle.py", "\nWEIGHT = 1\n")
    assert graph.again() == made("current")
    graph.undo()
    graph.edit("pipeline/tasks/instances/steps.py", "flip_ratio=0.5", "flip_ratio=0.4")
    assert graph.again() == {name for name in made(*PINNED, "current", pretrain=True) if "evaluate" not in name}
