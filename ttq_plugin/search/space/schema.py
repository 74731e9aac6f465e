"""The JSON schema of space files, with which editors complete names and underline mistakes."""

from __future__ import annotations

import json
from typing import Any

from ttq_plugin.methods import searchable
from ttq_plugin.search.space.file import TRIED_FIRST
from ttq_plugin.search.space.objectives import GAINS, LIMITED, OBJECTIVES
from ttq_plugin.search.space.ranges import SHARED, own_names
from ttq_plugin.search.space.samplers import SAMPLERS
from ttq_plugin.search.space.space import Space
from ttq_plugin.tasks import OWN, TASKS
from ttq_plugin.tasks.metrics import METRICS, NAME

WORDS = {
    "lr": "Learning rate of the weights.",
    "lr_scale": "Learning rate of the scales W_p and W_n.",
    "lr_threshold": "Learning rate of the thresholds, for methods that learn them.",
    "epochs": "Passes over the training split.",
    "share": "Least share of the candidate layers' weights that is quantised.",
    "t": "Threshold: a share of max|w| (ttq), of E|w| (twn), or standard deviations (pttq-symmetric).",
    "t_min": "Negative threshold in standard deviations; aTTQ's has a sign.",
    "t_max": "Positive threshold in standard deviations.",
    "zeros": "Exact share of zeros at the end of the training, instead of the method's thresholds.",
    "alpha": "Slope of the surrogate gradient per standard deviation; for pttq-released, per unit of weight.",
    "bits": "Largest share of the 32-bit size that the model takes; curvature chooses a method for each layer.",
}
"""What each parameter of a space means."""


def space_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a space file: what pydantic derives, and the names that it cannot know."""
    schema = Space.model_json_schema()
    of = schema["properties"]
    of["task"] |= {"anyOf": [{"enum": list(TASKS)}, {"pattern": f"^{OWN.pattern}$"}]}
    of["also"]["items"]["enum"] = list(TASKS)
    of["sampler"] |= {"enum": list(SAMPLERS), "description": _listed(SAMPLERS)}
    of["objectives"] |= {"minItems": 2, "uniqueItems": True}
    of["objectives"]["items"] |= {"description": _meanings(OBJECTIVES)}
    of["constraints"]["items"] |= {"description": _meanings(LIMITED)}
    of["metric"] = {
        "anyOf": [{"type": "string", "enum": list(METRICS)}, {"$ref": "#/$defs/Scored"}],
        "description": Space.model_fields["metric"].description,
    }
    schema["$defs"]["Scored"]["required"] = ["name"]
    # With a metric of the file's or of an own task, its name is an objective too.
    own_task = {"properties": {"task": {"pattern": f"^{OWN.pattern}$"}}, "required": ["task"]}
    schema |= {
        "if": {"anyOf": [{"required": ["metric"]}, own_task]},
        "then": _named([*METRICS, *GAINS], [NAME.pattern]),
        "else": _named(list(OBJECTIVES), list(LIMITED)),
    }
    of["parameters"] |= _object({name: _range(name) for name in SHARED}, ["lr", "lr_scale", "epochs"])
    methods = {method: _method(method) for method in own_names()}
    of["only"]["items"]["enum"] = list(methods)
    of["methods"] |= _object(methods, []) | {"minProperties": 1}
    own = dict.fromkeys(name for names in own_names().values() for name in names)
    numbers = {name: {"type": "number", "description": WORDS[name]} for name in (*SHARED, *own, "zeros")}
    for key in TRIED_FIRST:
        of[key]["items"] = _object({"method": {"type": "string", "enum": list(methods)}, **numbers}, ["method"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "ttq search space"}


def schema_text() -> str:
    """The text of the schema file next to the built-in spaces."""
    return json.dumps(space_schema(), indent=1) + "\n"


def _named(objectives: list[str], limited: list[str]) -> dict[str, Any]:
    """Which names objectives and constraints may have; where the metric's can be any, so can theirs."""
    known: dict[str, Any] = {"enum": objectives}
    if NAME.pattern in limited:
        known = {"anyOf": [known, {"pattern": f"^{NAME.pattern}$"}]}
    limits = {"pattern": rf"^\s*({'|'.join(limited)})\s*(>=|<=)\s*\S+\s*$"}
    return {"properties": {"objectives": {"items": known}, "constraints": {"items": limits}}}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _method(name: str) -> dict[str, Any]:
    """A method's own parameters: its thresholds, or a share of zeros in their place."""
    row = searchable()[name]
    forms = [row.names_with(zeros=zeros) for zeros in ((False, True) if row.zeros else (False,))]
    objects = [_object({key: _range(key) for key in names}, list(names)) for names in forms]
    return objects[0] if len(objects) == 1 else {"anyOf": objects}


def _range(name: str) -> dict[str, Any]:
    return {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/Range"}], "description": WORDS[name]}


def _listed(words: dict[str, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in words.items())


def _meanings(quantities: dict[str, Any]) -> str:
    return _listed({name: quantity.meaning for name, quantity in quantities.items()})
