from typing import Any

class ModuleSetting:
    registry: dict[str, dict[str, dict[str, Any]]]

class PruningSetting(ModuleSetting): ...
class QuantizationSetting(ModuleSetting): ...
