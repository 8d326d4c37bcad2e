"""What a measured row was trained with otherwise than the published row beside it: no number here is a reproduction of
another by itself.

On other data than COCO everything else differs as well, which `tables.comparability` says.
"""

from pipeline import methods
from pipeline.declaration import config, knobs, strict

RELEASED = "released"  # the preset of a recipes file that the published rows are of


def of_run(run, profile):
    """How a run differs from the published recipe of its method, in words; empty if it does not as far as is known.

    Args:
        run: `pipeline.declaration.experiments.Run`.
        profile: that of its dataset.
    """
    method, chosen = methods.method(run.method), config.load_knobs(run, profile)
    return "; ".join(filter(None, (_from_preset(method, chosen, run), method.differs(chosen))))


def _from_preset(method, chosen, run):
    """Knobs that have another value than the released code's; those that the row itself turns are its subject.

    Presets tell it of the methods whose pinned knobs lie beside them.
    """
    if method.recipes is None or method.knob_file.parent != method.recipes.parent:
        return ""
    if RELEASED not in strict.choices(method.knobs, knobs.RECIPE):
        return ""
    preset = knobs.preset_values(method.recipes, RELEASED, run.schedule)
    unread = method.unread(chosen)
    turned = {name: value for name, value in preset.items() if name in method.knobs.model_fields}
    return ", ".join(
        f"{name} {_word(getattr(chosen, name))} (released code: {_word(value)})"
        for name, value in turned.items()
        if name not in (run.overrides or {}) and name not in unread and getattr(chosen, name) != value
    )


def _word(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def lines(frame):
    """The differences of a table's rows as texts, `rows: what`, those with the same ones together."""
    if "differs" not in frame:
        return []
    found = {}
    for line in frame[frame["differs"].notna()].itertuples():
        found.setdefault(line.differs, {})[line.row] = None
    return [f"{', '.join(rows)}: {what}" for what, rows in found.items()]
