"""Label sets: classes, groups of them, and the directions that a task splits them in, a file in `label_sets/` each.

Names are the currency: directions, tables and figures speak of classes by name or by group; ids are looked up here or
in the annotation file; contiguous labels follow the order of the file.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.declaration import schema, strict
from pipeline.errors import ExperimentError

FOLDER = Path(__file__).parent / "label_sets"
EVERY_SET = ("all", "none")  # groups that are not declared


class Category(NamedTuple):
    id: int  # as in annotation files, where ids may have gaps
    name: str
    supercategory: str


@dataclass(frozen=True)
class LabelSet:
    """The classes of a dataset.

    Attributes:
        name: of its file. title: how messages call it.
        categories: in ascending order of ids; a label is a position in it.
        groups: {name: class names}, those declared, `all` and `none`.
        directions: {name: {"base": group, "novel": group}}.
    """

    name: str
    title: str
    categories: tuple[Category, ...]
    groups: dict
    directions: dict

    @property
    def names(self):
        return tuple(category.name for category in self.categories)

    @property
    def declared_groups(self):
        """{name: class names} without `all` and `none`."""
        return {name: members for name, members in self.groups.items() if name not in EVERY_SET}

    def __len__(self):
        return len(self.categories)

    def category_names(self, group):
        """Give the class names that a group stands for.

        Args:
            group: a key of `groups` or a list of class names.

        Returns:
            Tuple of names in the order of labels.

        Raises:
            ExperimentError: unknown group or name, or a name listed twice.
        """
        if isinstance(group, str):
            if group not in self.groups:
                raise ExperimentError(
                    f"unknown category group {group!r}{strict.options(group, self.groups)} (or a list of names)"
                )
            return self.groups[group]
        return _in_order(self, group)

    def base_and_novel(self, direction):
        """Resolve a split direction.

        Args:
            direction: the name of one, or `{"base": group, "novel": group}`; base categories keep their masks, novel
                ones have boxes only.

        Returns:
            `(base names, novel names)`, both in the order of labels and disjoint. One side may be empty only if the
            other holds all categories.

        Raises:
            ExperimentError: unknown direction, missing or unknown key, unknown category, a category on both sides, or
                an empty side.
        """
        if isinstance(direction, str):
            direction = self.direction(direction)
        if not isinstance(direction, dict) or set(direction) != {"base", "novel"}:
            raise ExperimentError(f"a split direction needs exactly the keys 'base' and 'novel', got {direction!r}")
        base, novel = self.category_names(direction["base"]), self.category_names(direction["novel"])
        if both := [name for name in base if name in novel]:
            raise ExperimentError(
                f"categories in both base and novel: {', '.join(both)}; a category either has masks or has none"
            )
        for side, other, name in ((base, novel, "base"), (novel, base, "novel")):
            if not side and other != self.names:
                raise ExperimentError(f"'{name}' is empty; that is allowed only if the other side is 'all'")
        return base, novel

    def direction(self, name):
        """One of `directions`. Raises ExperimentError for an unknown one."""
        if name not in self.directions:
            raise ExperimentError(
                f"unknown direction {name!r} of label set {self.name!r}{strict.options(name, self.directions)} "
                f"(declared in {_relative(self.name)})"
            )
        return self.directions[name]


def known(folder=FOLDER):
    """Names of the label sets."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def label_set(name, folder=FOLDER):
    """The label set of a file in `label_sets/`.

    Raises:
        ExperimentError: no such file, or one that breaks a rule: unknown or missing keys, ids or names that are
            repeated or out of order, an unknown category, a direction that `base_and_novel` refuses.
    """
    if name not in known(folder):
        raise ExperimentError(
            f"unknown label set {name!r}{strict.options(name, known(folder))} (a file of "
            "pipeline/declaration/label_sets each)"
        )
    path = folder / f"{name}.yaml"
    return _read(path, path.stat().st_mtime_ns, path.stat().st_size)


@cache
def _read(path, _time, _size):
    where = _relative(path.stem)
    try:
        content = YAML(typ="safe").load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ExperimentError(f"{where}: not valid YAML: {problem}") from None
    declared = strict.check(schema.LabelSet, content, where)
    categories = tuple(Category(entry.id, entry.name, entry.supercategory) for entry in declared.classes)
    try:
        _check_classes(categories)
        names = tuple(category.name for category in categories)
        labels = LabelSet(path.stem, declared.title, categories, {"all": names, "none": ()}, {})
        directions = {name: direction.model_dump() for name, direction in declared.directions.items()}
        labels = replace(labels, groups=_groups(labels, declared.groups) | labels.groups, directions=directions)
        for name in directions:
            labels.base_and_novel(name)
    except ExperimentError as error:
        raise ExperimentError(f"{where}: {error}") from None
    return labels


def _check_classes(categories):
    for name, count in Counter(category.name for category in categories).items():
        if count > 1:
            raise ExperimentError(f"classes: {name!r} is listed {count} times; list it once")
    for before, after in zip(categories, categories[1:], strict=False):
        if after.id <= before.id:
            raise ExperimentError(
                f"classes: id {after.id} of {after.name!r} stands behind {before.id}; "
                "list classes in ascending order of different ids"
            )


def _groups(labels, declared):
    groups = {}
    for name, members in declared.items():
        if name in EVERY_SET:
            raise ExperimentError(f"groups.{name}: every label set has it; choose another name")
        if isinstance(members, list):
            groups[name] = _in_order(labels, members)
            continue
        if members.without not in groups:
            raise ExperimentError(
                f"groups.{name}.without: unknown group {members.without!r}{strict.options(members.without, groups)}"
            )
        groups[name] = tuple(each for each in labels.names if each not in groups[members.without])
    return groups


def _in_order(labels, members):
    for name, count in Counter(members).items():
        if name not in labels.names:
            raise ExperimentError(
                f"unknown category {name!r} of label set {labels.name!r}{strict.options(name, labels.names)}"
            )
        if count > 1:
            raise ExperimentError(f"category {name!r} is listed {count} times; list it once")
    return tuple(name for name in labels.names if name in members)


def _relative(name):
    return f"pipeline/declaration/label_sets/{name}.yaml"
