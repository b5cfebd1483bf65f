"""Super-resolution networks. Knows torch only.

>>> import models
>>> models.create("bicubic", scale=2)  # doctest: +SKIP
"""

from models.registry import SCALES, Architecture, create, get, names, register

__all__ = ["SCALES", "Architecture", "create", "get", "names", "register"]
