from typing import Any, Literal

from schema import Schema
from torch import nn

def trans_legacy_config_list(config_list: list[dict[str, Any]]) -> list[dict[str, Any]]: ...
def select_modules_by_config(
    model: nn.Module, config: dict[str, Any]
) -> tuple[dict[str, nn.Module], dict[str, Any], list[tuple[str, ...]]]: ...
def default_config_schema(mode: Literal["pruning", "quantization", "distillation"]) -> Schema: ...
