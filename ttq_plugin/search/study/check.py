"""Checks whether a study can be opened, before anything is trained or written."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import make_url

from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.confirm import CONFIRMED
from ttq_plugin.search.space.samplers import check_grid
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.storage import is_local, open_storage
from ttq_plugin.search.study.study import check_same_search, load_study
from ttq_plugin.support.names import check_name, redact
from ttq_plugin.tracking.runs.single import check_study_name


def check_study(storage: str, name: str, space: Space, *, resume: bool, seed: int | None) -> int:
    """Check that a search can start, or continue, under that name.

    Args:
        storage: The study database's URL; a local one that does not exist yet is not made.
        name: The study's name.
        space: What is to be searched.
        resume: Whether the study must exist already, else it must not.
        seed: The requested seed, or None for that of the study or the space.

    Returns:
        The seed that the search will use.

    Raises:
        InputError: The database cannot be used, the name is taken or missing, the study searches something else, or
            the space asks for a grid too large.
    """
    check_grid(space)
    if resume:
        study = load_study(storage, name)
        check_same_search(study, space, seed)
        return int(study.user_attrs[keys.SEED])
    check_name("the name of a study", name)
    if name.endswith(CONFIRMED):
        raise InputError(f"Names that end with {CONFIRMED!r} belong to `ttq search --confirm`, got {name!r}.")
    check_study_name(name)
    local = is_local(storage)
    if not local or Path(str(make_url(storage).database)).exists():
        backend = open_storage(storage, create=True)
        known = insides.names(backend)
        if name in known:
            raise InputError(
                f"The study {name!r} already exists in {redact(storage)}; "
                "continue it with --resume, or use another name."
            )
        if twins := [other for other in known if other.casefold() == name.casefold()]:
            raise InputError(
                f"the name of a study must differ from {twins[0]!r} in more than upper and lower case, which not every "
                f"file system tells apart, got {name!r}; use another name."
            )
    return space.seed if seed is None else seed
