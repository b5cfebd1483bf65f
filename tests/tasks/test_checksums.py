import hashlib
from pathlib import Path

from tasks.checksums import file_sha256, folder_sha256


def test_a_file_by_fips_180(tmp_path: Path) -> None:
    """The example of FIPS 180-2, B.1."""
    (tmp_path / "abc").write_text("abc")
    assert file_sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_folders_checksum_is_of_its_names_and_contents(tmp_path: Path) -> None:
    files = {"a": "1", "b/c": "2"}
    expected = folder_sha256(fill(tmp_path / "one", files))

    assert folder_sha256(fill(tmp_path / "same", dict(reversed(files.items())))) == expected
    different = [
        {"a": "1"},
        {"a": "1", "b/c": "3"},
        {"a": "2", "b/c": "1"},
        {"a": "1", "b/d": "2"},
        {"a": "1", "c": "2"},
        {"a": "12", "b/c": ""},
        {"a": "1", "b/c": "2", "d": ""},
    ]
    sums = {
        folder_sha256(fill(tmp_path / f"other{number}", other))
        for number, other in enumerate(different)
    }
    assert len(sums | {expected}) == len(different) + 1


def test_a_folders_checksum_by_hand(tmp_path: Path) -> None:
    folder = fill(tmp_path / "f", {"a.txt": "x", "b/c.txt": "yz"})
    by_hand = b"a.txt\0" + hashlib.sha256(b"x").digest()
    by_hand += b"b/c.txt\0" + hashlib.sha256(b"yz").digest()

    assert folder_sha256(folder) == hashlib.sha256(by_hand).hexdigest()
