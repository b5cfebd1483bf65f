"""What the joint trainings see of the data, in one small file that they depend on.

Checksums of the shards and validation pictures of the scales in use. So neither another test set
nor what is left of a scale that nobody asks for any more makes a joint training stale.
"""

import argparse
import json

from tasks.atomic import write_text
from tasks.checksums import folder_sha256
from tasks.config import Params, load_params
from tasks.fingerprint import validation_sums
from tasks.layout import joint_data_file, lr_folder, shard_folder
from tasks.shards import shard_checksums


def write_joint_data(params: Params, architecture: str) -> None:
    """Write the file of one joint training.

    Raises:
        ShardError: no shards, or damaged ones.
    """
    seen = {
        "shards": {scale: shard_checksums(shard_folder(scale)) for scale in params.scales},
        "validation_hr": validation_sums(params),
        "validation_lr": {
            scale: {
                name: folder_sha256(lr_folder(scale) / "validation" / name)
                for name in params.data.validation
            }
            for scale in params.scales
        },
    }
    path = joint_data_file(architecture)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(seen, indent=2) + "\n")


def main() -> None:
    """The stage's command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", required=True)
    write_joint_data(load_params(), parser.parse_args().architecture)


if __name__ == "__main__":
    main()
