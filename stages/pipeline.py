"""Found in the place of the library by `python stages/train.py`, which looks for modules beside the script."""

import os
import shlex
import sys

_script = os.path.basename(sys.argv[0]).replace(".py", "")
_package = os.path.basename(os.path.dirname(os.path.abspath(sys.argv[0])))
_folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.stderr.write(f"error: this is a module: run `cd {shlex.quote(_folder)} && python -m {_package}.{_script}`\n")
sys.exit(1)
