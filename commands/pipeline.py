"""Found in the place of the library by `python commands/plan.py`, as `stages/pipeline.py` is."""

import os
import runpy

runpy.run_path(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "stages", "pipeline.py"))
