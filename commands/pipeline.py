"""Found in the place of the library by `python commands/plan.py`, as `stages/pipeline.py` is."""

import os

_folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
with open(os.path.join(_folder, "stages", "pipeline.py")) as _file:
    exec(_file.read())
