"""HR pictures -> LR pictures: cropped to a multiple of the scale, MATLAB-exact bicubic, PNG.

Data in: `data/hr/<role>/<data set>/`. Data out: `data/lr/x<scale>/<role>/<data set>/<name>.png`,
8 bits, one LR picture for every HR picture.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.progress import track

from tasks.atomic import replacing_folder
from tasks.bicubic import shrink
from tasks.config import ROLES, load_params
from tasks.cores import num_usable_cores
from tasks.errors import ImageError
from tasks.images import list_images, read_image, write_png
from tasks.layout import HR_FOLDER, lr_folder, lr_name


def degrade(scale: int) -> None:
    """Make the LR pictures of one scale, for every data set under `data/hr`.

    Raises:
        ImageError: no pictures, or one that is corrupt.
    """
    for role in ROLES:
        with replacing_folder(lr_folder(scale) / role) as folder:
            for hr_folder in sorted((HR_FOLDER / role).iterdir()):
                # DVC leaves an empty folder of a data set that it takes away.
                if not any(hr_folder.glob("*")):
                    continue
                degrade_folder(hr_folder, folder / hr_folder.name, scale)


def degrade_folder(hr_folder: Path, target: Path, scale: int) -> None:
    """Make one LR picture for every picture of a folder, on all cores.

    Raises:
        ImageError: no pictures, one that is corrupt, or two of one stem.
    """
    pictures = list_images(hr_folder)
    targets = [target / lr_name(path) for path in pictures]
    if len(set(targets)) != len(targets):
        raise ImageError(f"{hr_folder} holds pictures that differ only in their suffix")
    target.mkdir(parents=True)

    def shrink_one(hr: Path, lr: Path) -> None:
        write_png(lr, shrink(read_image(hr), scale))

    # Threads suffice: decoding, NumPy and encoding release the interpreter's lock.
    with ThreadPoolExecutor(num_usable_cores()) as pool:
        done = pool.map(shrink_one, pictures, targets)
        text, hidden = f"degrade ×{scale} {hr_folder.name}", not sys.stderr.isatty()
        for _ in track(done, text, len(pictures), transient=True, disable=hidden):
            pass


def main() -> None:
    """The stage's command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, required=True, choices=load_params().scales)
    degrade(parser.parse_args().scale)


if __name__ == "__main__":
    main()
