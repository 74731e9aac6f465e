from collections.abc import Callable
from typing import Any

from torch import nn

_DEFAULT_OP_LIST_TO_FUSER_METHOD: dict[tuple[type[nn.Module], ...], Callable[..., Any]]
