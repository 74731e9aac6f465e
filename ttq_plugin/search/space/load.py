"""Finds space files by name or path, reads and validates them; errors name the file, the key and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ttq_plugin.errors import InputError
from ttq_plugin.search.space.defaults import default_text, thresholds_instead
from ttq_plugin.search.space.ranges import Problem, Range, unknown
from ttq_plugin.search.space.scored import Scored, entry
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.space.stopping import GiveUp, Halving, StopEarly
from ttq_plugin.support.limits import DEEPEST, LARGEST_SETTINGS, LONGEST_VALUE, MOST_NODES, read_text
from ttq_plugin.tasks import OWN, TASKS, check_allowed, get_task
from ttq_plugin.tasks.metrics import METRICS

_FOLDERS = (Path(__file__).parents[2] / "search_spaces", Path(__file__).parents[3] / "search_spaces")
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
        name: A space's name, such as mnist-cnn, or a task that a space is for.

    Returns:
        The path of its YAML file.

    Raises:
        InputError: If no space of that name comes with the package.
    """
    if name in _index():
        return _index()[name]
    kinds = "built in; or the path of a YAML file, or module:attribute for a task of your own"
    raise InputError(f"{unknown('search space', name, built_in())} ({kinds}).")


def load_space(
    path_or_name: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    task: str | None = None,
    thresholds: bool = False,
) -> Space:
    """The search space of a file, the built-in one of that name, or the default one of a task.

    The task is imported: its metric is the space's, and of a task without a file all else follows from its recipe. A
    file that names a task of one's own makes nothing be imported unless the caller names that task too.

    Args:
        path_or_name: The path of a YAML file, a name such as mnist-cnn, or a task of one's own, module:attribute.
        changes: Keys of the file that are to have other values, such as {"only": ["pttq"]}.
        task: What must be searched; None for any built-in task, or for the one that is the name.
        thresholds: Whether to search initial thresholds where the space has a share of zeros.

    Returns:
        The validated space.

    Raises:
        InputError: No such file or name, or the file does not describe a space; one sentence that says what would.
    """
    if thresholds:
        found = load_space(path_or_name, changes, task=task)
        return parse_space(found.text, str(path_or_name), thresholds_instead(yaml.safe_load(found.text)))
    path, changes = Path(path_or_name), dict(changes or {})
    if not path.exists():
        if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
            raise InputError(f"There is no space file {path}; the built-in spaces are {', '.join(built_in())}.")
        name = str(path_or_name)
        if name not in _index() and (name in TASKS or OWN.fullmatch(name)):
            check_allowed(f"the default space of {name}", name, task or name)
            return parse_space(default_text(get_task(name)), f"the default space of {name}", changes)
        path = space_path(name)
        if path.stem != name:
            changes = {"task": name, "also": [], **changes}
    text = read_text(path, "the search space", LARGEST_SETTINGS)
    data = _mapping(text, str(path)) | changes
    check_allowed(str(path), data.get("task"), task)
    return parse_space(text, str(path), changes | _metric_of_task(data, str(path)))


def _metric_of_task(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The task's metric as a change of a file that does not name it; nothing where it does, or needs not."""
    name = data.get("task")
    if not isinstance(name, str) or (name not in TASKS and not OWN.fullmatch(name)):
        return {}  # refused with everything else
    found = entry(get_task(name).score)
    if "metric" not in data:
        return {} if found == entry(METRICS["mcc"]) else {"metric": found}
    said = data["metric"]
    named = said.get("name") if isinstance(said, Mapping) else said
    if named != found["name"] or (isinstance(said, Mapping) and said.get("higher", found["higher"]) != found["higher"]):
        raise InputError(f"{source}: metric must be {name}'s own, {found['name']}, got {named!r}; leave it out.")
    return {"metric": found}


def parse_space(text: str, source: str, changes: Mapping[str, Any] | None = None) -> Space:
    """The search space of a text.

    Args:
        text: The YAML.
        source: What the messages call it, usually its path.
        changes: Keys that are to have other values than in the text; those of `give_up` and `stop_early` one by one.

    Returns:
        The validated space, whose own text has the changes in it.

    Raises:
        InputError: If the text does not describe a space.
    """
    data = _mapping(text, source)
    if changes:
        data |= {key: _merged(key, data.get(key), value) for key, value in changes.items()}
        text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)
    try:
        space = Space.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{source}: {_sentence(error)}.") from None
    space._text = text
    return space


def _merged(key: str, said: Any, value: Any) -> Any:
    """A changed value; where the keys inside are asked for one by one, the other keys keep their values."""
    both = key in ("give_up", "stop_early") and isinstance(said, Mapping) and isinstance(value, Mapping)
    return {**said, **value} if both else value


def _mapping(text: str, source: str) -> dict[str, Any]:
    """A file's keys and values; InputError if it is not a mapping."""
    try:
        data = _constructed(text)
    except RecursionError:
        raise InputError(f"{source} is nested deeper than {DEEPEST} levels; a search space needs few.") from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError) as error:
        raise InputError(f"{source} is not YAML: {_first_problem(error)}.") from None
    if not isinstance(data, dict):
        keys = ", ".join(Space.model_fields)
        raise InputError(f"{source} must be a mapping with keys among {keys}, got {_short(data)}.")
    return data


def _constructed(text: str) -> Any:
    """The YAML's value, after checking that it is small even with all aliases expanded."""
    loader = _NoDuplicates(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {}, 0)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """The number of values in a node with aliases expanded; raises ValueError if too many, too deep or too long."""
    if depth > DEEPEST:  # also of an alias within what it stands for
        raise RecursionError
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > LONGEST_VALUE:
            raise ValueError(f"a value of {len(node.value)} characters, at most {LONGEST_VALUE} are allowed")
        return 1
    if id(node) not in known:
        inner = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_size(part, known, depth + 1) for part in inner)
        if known[id(node)] > MOST_NODES:
            raise ValueError(f"its aliases stand for more than {MOST_NODES} values")
    return known[id(node)]


class _NoDuplicates(yaml.SafeLoader):
    """YAML of few levels, where a key that appears twice is an error instead of a silent choice of the last one."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise RecursionError
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

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

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number that a database can keep, and Python can write."""
        value = super().construct_yaml_int(node)
        if not -(2**63) <= value < 2**63:
            raise yaml.constructor.ConstructorError(None, None, "a whole number beyond 64 bits", node.start_mark)
        return int(value)


_NoDuplicates.add_constructor("tag:yaml.org,2002:int", _NoDuplicates.construct_yaml_int)


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
        # Other names are checked before pydantic sees them: only these can have extra keys.
        inner: dict[Any, type[BaseModel]] = {"stop_early": StopEarly, "give_up": GiveUp, "metric": Scored}
        model = Space if len(path) == 1 else Halving if "halving" in path[:-1] else inner.get(path[0], Range)
        allowed = model.model_fields
        path, message = path[:-1], unknown("key", path[-1], allowed)
    elif first["type"] == "missing":
        inside = Scored if path[0] == "metric" else Range
        fields = Space.model_fields if len(path) == 1 else inside.model_fields
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
