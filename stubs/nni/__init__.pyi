"""What this project uses of NNI 3.0, which ships without types: names and signatures as in its source."""

from collections.abc import Callable
from typing import Any, TypeVar

_Made = TypeVar("_Made", bound=Callable[..., Any])

def trace(cls_or_func: _Made) -> _Made: ...
