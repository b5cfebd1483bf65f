"""Every error that sisr raises on purpose.

    SisrError
    ├── ParamsError          params.yaml, a parameter set or a setting is wrong
    ├── DataError            the pictures
    │   ├── DownloadError    out of reach: trying again may help
    │   ├── ArchiveError     wrong checksum, unsafe, corrupt or oversized
    │   ├── ImageError       unreadable, truncated, too large or too small
    │   └── ShardError       not a shard, corrupt, other format version
    ├── TrainingError        a cell that cannot train or that diverged
    ├── DeviceError          a GPU whose memory does not suffice
    ├── WeightsError         weights refused, not fitting the network, or giving no numbers
    ├── StoreError           DVC, MLflow, S3, Ray or the disk cannot be used
    └── CellsFailed          the run ended, some of its cells failed

Each message gives the value and the way out. Programming mistakes stay
`assert`, `ValueError` and `TypeError`.
"""


class SisrError(Exception):
    """Base of every error meant for the person who runs sisr."""

    def __str__(self) -> str:
        """The message, safe to print: a foreign file's name may hold commands to the terminal."""
        return "".join(map(_shown, super().__str__()))


def _shown(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return character.encode("unicode_escape").decode("ascii")


class ParamsError(SisrError):
    """A parameter file or setting is wrong."""


class DataError(SisrError):
    """The pictures cannot be used."""


class DownloadError(DataError):
    """A data set could not be fetched."""


class ArchiveError(DataError):
    """An archive is not what was promised, unsafe, corrupt or too large."""


class ImageError(DataError):
    """A picture is unreadable, truncated, too large or too small."""


class ShardError(DataError):
    """A file is not a shard, is corrupt, or has another format version."""


class TrainingError(SisrError):
    """A cell cannot train, or diverged."""


class DeviceError(SisrError):
    """A GPU's memory does not suffice."""


class WeightsError(SisrError):
    """Weights were refused, do not fit the network, or give no numbers."""


class StoreError(SisrError):
    """DVC, MLflow, S3, Ray or the disk cannot be used."""


class CellsFailed(SisrError):
    """The run ended and some of its cells failed."""
