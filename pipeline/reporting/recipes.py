"""docs/recipes.md: every difference between the published text and the released code, with both values.

python -m pipeline.reporting.recipes writes it; a test compares the file with what this module would write.
"""

import pandas as pd

from pipeline import methods
from pipeline.artifacts import files, paths
from pipeline.declaration import knobs

DOCUMENT = paths.ROOT / "docs" / "recipes.md"

INTRODUCTION = """# Two recipes: `paper` and `released`

Generated from `pipeline/methods/contrastmask/recipes.yaml` by `python -m pipeline.reporting.recipes`.

The published text and the code its authors released differ. `recipe: paper` follows the text, and the code where
the text is silent; `recipe: released` follows the code throughout. A recipe is nothing but the list of values
below: a knob of `params.yaml` whose value is `recipe` takes its value from the list, any other value stands for
itself, so one difference can be moved alone. Two values depend on the schedule of the run, because the released code
has a configuration for each:

```sh
dvc exp run -S recipe=released
dvc exp run -S loss_similarity=centred
```

Default: `recipe: profile`. The profile of the dataset chooses: `knobs:` of an entry in
`pipeline/experiments/profiles.yaml` names the recipe and may move single values of it, which only knobs of value
`recipe` take. A profile that names none means `released`; `-S recipe=released` and `-S recipe=paper` are a column
below as it is, on every dataset. One value is moved whichever it is: `loss_denominator: temperature` (D6). Why:

- `full`, the profile of COCO, follows the released code. The text leaves out what a reader needs (how the
  contrastive features reach the mask head: D2, D3; which RoIs carry the mask loss: D22; which RoIs are too small to
  take part: D16). The released code is the only complete description, and this implementation agrees with it number
  for number (`python -m commands.verify`).
- `embedded`, the profile of the drawn images, names its own choice; [embedded.md](embedded.md) has it beside whatever
  else the profile changes, with reasons.
- The released denominator leaves the temperature out of the positive's own term. The loss then is no negative
  log-likelihood: it falls below zero where negatives are few. The published equation is kept there, so the default
  loss is never negative.

Neither recipe has been trained on COCO with this pipeline yet. Which one reaches the published numbers is the first
thing to find out with GPUs: `dvc exp run -S dataset=coco2017 --queue -S recipe=paper,released`.

"""


def document():
    """The text of docs/recipes.md."""
    rows = pd.DataFrame(knobs.differences(methods.method("contrastmask").recipes))
    rows = rows[["id", "description", "knob", "paper", "released", "note"]].astype(object)
    rows = rows.where(rows.notna(), "")
    rows["knob"] = [f"`{knob}`" if knob else "" for knob in rows["knob"]]
    for column in ("paper", "released"):
        rows[column] = [_shown(value) for value in rows[column]]
    rows.columns = ["", "difference", "knob", "paper", "released", "note"]
    return INTRODUCTION + rows.to_markdown(index=False, disable_numparse=True) + "\n"


def _shown(value):
    if isinstance(value, dict):
        return ", ".join(f"{schedule}: {_shown(chosen)}" for schedule, chosen in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    files.write_text(DOCUMENT, document())
