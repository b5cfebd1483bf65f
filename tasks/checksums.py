"""SHA-256 of files and folders: what tells whether two of them are the same."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The checksum of a file, however large."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def folder_sha256(folder: Path) -> str:
    """One checksum of the names and contents of all files under a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()
