"""Several committed parameter sets, one in use: the workspace's params.yaml.

DVC and the flow read params.yaml and nothing else, so that `dvc repro`
reproduces whatever set was chosen last.
"""

import shutil
import sys
from pathlib import Path

from tasks.atomic import replacing_file
from tasks.config import PARAMS_FILE, load_params

PREVIOUS_FILE = Path("params.previous.yaml")


def adopt(path: Path) -> None:
    """Make a parameter set the one in use; the one before is kept beside it.

    Raises:
        ParamsError: no such file, or one that is not valid.
        StoreError: the disk is full.
    """
    load_params(path)
    adopted = path.read_bytes()  # now: `path` may be the file that the next lines overwrite
    if PARAMS_FILE.exists():
        if PARAMS_FILE.read_bytes() == adopted:
            return
        with replacing_file(PREVIOUS_FILE) as temporary:
            shutil.copyfile(PARAMS_FILE, temporary)
        said = f"{path} is now {PARAMS_FILE}; what was there is kept as {PREVIOUS_FILE}"
        print(said, file=sys.stderr)
    with replacing_file(PARAMS_FILE) as temporary:
        temporary.write_bytes(adopted)
