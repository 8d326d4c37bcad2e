"""The layout rules: stages thin and named as in dvc.yaml, paths spelled the same, imports pointing one way."""

import ast
import json
import re
from fnmatch import fnmatch
from pathlib import Path

import networkx
import pytest
from ruamel.yaml import YAML

from pipeline.artifacts import paths
from pipeline.declaration import closure, experiments

DVC = YAML(typ="safe").load(paths.ROOT / "dvc.yaml")
STAGES = DVC["stages"]
ELSEWHERE = "_elsewhere"
HERE = {name: stage for name, stage in STAGES.items() if not name.endswith(ELSEWHERE)}
# Lower layers never import higher ones. A module belongs to the longest pattern that it begins with: `*` is any room.
LAYERS = [
    {
        "pipeline.errors",
        "pipeline.environment",
        "pipeline.processes",
        "pipeline.compat",
        "pipeline.hardware",
        "pipeline.redaction",
        "pipeline.cli",
        "pipeline.artifacts",
    },
    {
        "pipeline.declaration",
        "pipeline.training.collectives",
        "pipeline.training.precision",
        "pipeline.training.progress",
        "pipeline.training.schedule",
    },
    {"pipeline.tasks", "pipeline.methods"},  # what a task and a method is; the rooms follow below
    {
        "pipeline.declaration.references",
        "pipeline.declaration.experiments",
        "pipeline.declaration.subsets",
        "pipeline.artifacts.checkpoint",
        "pipeline.artifacts.results",
    },
    {"pipeline.datasets"},
    {"pipeline.tasks.*"},
    {"pipeline.methods.*"},
    {"pipeline.declaration.config", "pipeline.declaration.recipe"},
    {
        "pipeline.training",
        "pipeline.trained",
        "pipeline.tasks.*.prediction",
        "pipeline.tasks.*.labelling",
        "pipeline.methods.*.look_inside",
        "pipeline.methods.*.golden",
        "pipeline.methods.*.released_checkpoint",
    },
    {"pipeline.tracking"},
    {
        "pipeline.runs",
        "pipeline.launching",
        "pipeline.doctor",
        "pipeline.acceptance",
        "pipeline.own",
        "pipeline.estimate",
    },
    {"pipeline.reporting"},
    {"pipeline.launching.plan"},  # reads of the reports how long runs took
    {"pipeline.inference"},
]


def modules():
    for path in sorted((paths.ROOT / "pipeline").rglob("*.py")):
        relative = path.relative_to(paths.ROOT).with_suffix("")
        parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
        yield ".".join(parts), path


MODULES = dict(modules())


def layer(module):
    parts = module.split(".")
    known = [
        (pattern.count("."), level)
        for level, patterns in enumerate(LAYERS)
        for pattern in patterns
        if fnmatch(".".join(parts[: pattern.count(".") + 1]), pattern)
    ]
    return max(known)[1] if known else None


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module, path", [pytest.param(*item, id=item[0]) for item in MODULES.items()])
def test_imports_point_one_way(module, path):
    if module == "pipeline":
        return
    level = layer(module)
    assert level is not None, f"{module} is in no layer of tests/core/test_layout.py"
    for name in imports(path):
        assert name.split(".")[0] not in {"stages", "commands", "tests"}, f"{module} imports {name}"
        other = layer(name) if name in MODULES else None
        if other is not None:
            assert other <= level, f"{module} imports {name} of a higher layer"


def test_libraries_stay_where_they_belong():
    for module, path in MODULES.items():
        for library in {name.split(".")[0] for name in imports(path)}:
            if module.startswith("pipeline.reporting"):
                assert library not in {"torch", "mmdet", "mmcv", "mlflow"}, f"{module} imports {library}"
            if library == "mlflow":
                assert module.startswith("pipeline.tracking") or module == "pipeline.doctor", f"{module} imports mlflow"


def test_what_changes_weights_is_apart_from_what_tells_about_them():
    """Else a mended message would train everything again."""
    within = {name.removeprefix("pipeline.") for name in closure.closure(["pipeline.training.computation"])}
    parts = "collectives computation data_parallel losses precision progress sampler schedule starting_weights update"
    assert within == {"training", *(f"training.{part}" for part in parts.split())}


def test_methods_are_strangers():
    rooms = {path.parent.name for path in (paths.ROOT / "pipeline/methods").glob("*/__init__.py")} - {"shared"}
    for module, path in MODULES.items():
        if module.startswith("pipeline.methods."):
            others = rooms - {module.split(".")[2]}
            for name in imports(path):
                assert not any(f"{name}.".startswith(f"pipeline.methods.{other}.") for other in others), (module, name)


def test_a_stage_group_for_every_stage_file():
    files = {path.stem for path in (paths.ROOT / "stages").glob("*.py")} - {"__init__", "pipeline"}
    assert files == {name.removesuffix(ELSEWHERE).removesuffix("_task") for name in STAGES}


def test_stages_and_commands_are_thin():
    for folder in ("stages", "commands"):
        for path in (paths.ROOT / folder).glob("*.py"):
            assert len(path.read_text().splitlines()) <= 40, path.name


def spelled(template, **values):
    for key, value in values.items():
        template = template.replace(f"${{{key}}}", value)
    return template


def outs(stage):
    body = STAGES[stage].get("do", STAGES[stage])
    for out in body.get("outs", []) + body.get("metrics", []):
        yield out if isinstance(out, str) else next(iter(out))


def test_dvc_spells_the_paths_of_the_library():
    def relative(path):
        return str(Path(path).relative_to(paths.ROOT))

    expected = {
        "download": {relative(paths.annotations("d", "train2017").parent), relative(paths.manifest("d"))},
        "split": {
            relative(paths.split("d", "k")),
            *(relative(paths.statistics("d", "k", extension)) for extension in ("csv", "md")),
        },
        "pretrain": {relative(paths.initial_weights("d", "k"))},
        "train": {relative(paths.run("d", "k")), relative(paths.logs("d", "k"))},
        "evaluate": {relative(paths.run_predictions("d", "k")), relative(paths.results("d", "k"))},
        "headline": {relative(paths.metrics("k"))},
        "label": {relative(paths.labels("d", "k"))},
        "look_inside": {relative(paths.look_inside("d", "k"))},
        "tables": {relative(paths.table("d", "k", extension)) for extension in ("csv", "md", "tex")},
    }
    for stage, paths_of_stage in expected.items():
        assert {spelled(out, dataset="d", key="k") for out in outs(stage)} == paths_of_stage, stage


def test_outputs_with_a_digest_depend_on_how_it_is_made():
    """Else a file whose digest was made otherwise comes back from DVC's cache, for ever: recipes hold the FORMATS."""
    for stage, kind in (
        ("pretrain", "init"),
        ("train", "training"),
        ("evaluate", "evaluation"),
        ("label", "labelling"),
    ):
        recipe = paths.recipe("d", "k", kind).relative_to(paths.ROOT)
        assert str(recipe) in {spelled(dep, dataset="d", key="k") for dep in STAGES[stage]["do"]["deps"]}, stage


@pytest.mark.parametrize("stage", [name for name in STAGES if name.endswith(ELSEWHERE)])
def test_a_stage_is_the_same_for_runs_with_a_dataset_of_their_own(stage):
    """DVC cannot look up the dataset of a run, so these stages stand twice in dvc.yaml."""
    of_dataset = stage.startswith(("download", "recipes"))  # else the key names a run, a direction or initial weights
    spelling = {
        "dataset": "D",
        "item.dataset": "D",
        "key": "K",
        "item.direction": "direction",
        "item.split": "split",
        "item.task": "task",
        "item.key": "weights",
        "item.weights": "weights",
        "item.method": "method",
        "item.reads": "reads",
    }
    here = spelling | {"selected.label_set": "L", **({"key": "direction"} if stage.startswith("split") else {})}
    here |= {"key": "weights"} if stage.startswith(("pretrain", "priors")) else {}
    elsewhere = spelling | {"item.label_set": "L", **({"key": "D"} if of_dataset else {})}
    twin = STAGES[stage.removesuffix(ELSEWHERE)]
    for part in ("deps", "outs"):
        ours, theirs = STAGES[stage]["do"][part], twin.get("do", twin)[part]
        found = [filled(json.dumps(entry), elsewhere) for entry in ours]
        assert found == [filled(json.dumps(entry), here) for entry in theirs if entry != "params.yaml"], part


def filled(text, names):
    """Text with the placeholders of dvc.yaml replaced."""
    return re.sub(r"\$\{([^}]*)\}", lambda match: names[match[1]], text)


def depends(dep, out):
    """Whether a dependency of dvc.yaml lies in or above an output, whatever its placeholders stand for."""
    # a run is named like no folder beside it
    if out.startswith("runs/") and ("/init/" in dep) != ("/init/" in out):
        return False
    dep, out = (re.sub(r"\$\{[^}]*\}", "*", path).split("/") for path in (dep, out))
    return all(fnmatch(a, b) or fnmatch(b, a) for a, b in zip(dep, out, strict=False))


def test_the_graph_in_the_docs_is_that_of_dvc_yaml():
    graph = networkx.DiGraph(
        (first, second)
        for second, stage in HERE.items()
        for dep in stage.get("do", stage).get("deps", [])
        for first in HERE
        if first != second and any(depends(dep, out) for out in outs(first))
    )
    graph.remove_edge("label", "train")  # of other runs: the only way back
    chart = (paths.ROOT / "docs" / "tables.md").read_text().split("flowchart LR\n")[1].split("```")[0]
    chains = [line.split(" --> ") for line in chart.strip().splitlines()]
    drawn = {(a.strip(), b.strip()) for chain in chains for a, b in zip(chain, chain[1:], strict=False)}
    assert drawn == set(networkx.transitive_reduction(graph).edges)


def test_every_backbone_of_a_run_is_pretrained_and_in_every_profile():
    declared = experiments.load()
    for run in declared.runs.values():
        assert run.backbone in declared.backbones
        for name, profile in declared.profiles.items():
            assert run.backbone in profile["backbones"], (run.name, name)
