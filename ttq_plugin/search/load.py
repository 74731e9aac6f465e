"""Space files: found by name or path, read, and refused in one sentence that names file, key and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ttq_plugin.errors import InputError
from ttq_plugin.search.ranges import Problem, Range, unknown
from ttq_plugin.search.space import Space
from ttq_plugin.search.stopping import StopEarly

_FOLDERS = (Path(__file__).parents[1] / "search_spaces", Path(__file__).parents[2] / "search_spaces")
"""Inside the installed package (the wheel puts them there), else at the root of a checkout."""


def built_in() -> list[str]:
    """The names of the spaces that come with the package: of the files, and of the other tasks that they are for."""
    return sorted(_index())


@lru_cache(maxsize=1)
def _index() -> dict[str, Path]:
    files = {path.stem: path for folder in reversed(_FOLDERS) for path in folder.glob("*.yaml")}
    others = {task: path for path in files.values() for task in yaml.safe_load(path.read_text()).get("also", ())}
    return others | files


def space_path(name: str) -> Path:
    """The file of a built-in space.

    Args:
        name: a space's name, such as mnist-cnn, or a task that a space is for.

    Returns:
        the path of its YAML file.

    Raises:
        InputError: no space of that name comes with the package.
    """
    if name in _index():
        return _index()[name]
    raise InputError(unknown("search space", name, built_in()) + " (built in), or the path of a YAML file.")


def load_space(path_or_name: str | Path, changes: Mapping[str, Any] | None = None) -> Space:
    """The search space of a file, or the built-in one of that name.

    Args:
        path_or_name: the path of a YAML file, or a name such as mnist-cnn.
        changes: keys of the file that are to have other values, such as {"only": ["pttq"]}.

    Returns:
        the validated space.

    Raises:
        InputError: no such file or name, or the file does not describe a space; one sentence that says what would.
    """
    path, changes = Path(path_or_name), dict(changes or {})
    if not path.exists():
        if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
            raise InputError(f"There is no space file {path}; built in are the names {', '.join(built_in())}.")
        name = str(path_or_name)
        path = space_path(name)
        if path.stem != name:
            changes = {"task": name, "also": [], **changes}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
        raise InputError(f"{path} {why}; a search space is a YAML file.") from None
    return parse_space(text, str(path), changes)


def parse_space(text: str, source: str, changes: Mapping[str, Any] | None = None) -> Space:
    """The search space of a text.

    Args:
        text: the YAML.
        source: what the messages call it, usually its path.
        changes: keys that are to have other values than in the text.

    Returns:
        the validated space, whose own text has the changes in it.

    Raises:
        InputError: the text does not describe a space; one sentence that says what would.
    """
    try:
        data = yaml.load(text, Loader=_NoDuplicates)  # noqa: S506 (a subclass of SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{source} is not YAML: {_first_problem(error)}.") from None
    if not isinstance(data, dict):
        keys = ", ".join(Space.model_fields)
        raise InputError(f"{source} must be a mapping with keys among {keys}, got {_short(data)}.")
    if changes:
        data |= changes
        text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)
    try:
        space = Space.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{source}: {_sentence(error)}.") from None
    space._text = text
    return space


class _NoDuplicates(yaml.SafeLoader):
    """YAML where a key that appears twice is an error instead of a silent choice of the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} appears twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _first_problem(error: Exception) -> str:
    problem = " ".join((getattr(error, "problem", None) or str(error).split("\n")[0] or type(error).__name__).split())
    mark = getattr(error, "problem_mark", None)
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem


def _sentence(error: ValidationError) -> str:
    """One of pydantic's complaints, in our words: key path, what is allowed, what came."""
    errors = error.errors(include_url=False)
    # A misspelt key is both unknown and missing; the misspelling is what helps.
    first = next((entry for entry in errors if entry["type"] == "extra_forbidden"), errors[0])
    path, message = tuple(first["loc"]), first["msg"]
    problem = first.get("ctx", {}).get("error")
    if isinstance(problem, Problem):
        path, message = path + problem.path, str(problem)
    elif first["type"] == "extra_forbidden":
        # Other names are checked before pydantic sees them: only these three can have extra keys.
        models: tuple[type[BaseModel], ...] = (Space, StopEarly, Range)
        allowed = models[min(len(path), len(models)) - 1].model_fields
        path, message = path[:-1], unknown("key", path[-1], allowed)
    elif first["type"] == "missing":
        fields = Space.model_fields if len(path) == 1 else Range.model_fields
        required = [name for name, field in fields.items() if field.is_required()]
        message = f"is missing, required here: {', '.join(required)}"
    else:
        message = f"{message[0].lower()}{message[1:]}, got {_short(first['input'])}".replace("input should", "must")
        message = message.replace("tuple", "list")
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    colon = "" if not where or message.startswith(("must ", "needs ", "is missing")) else ":"
    return f"{where}{colon} {message}".strip()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
