"""The errors of the project's own making, importable from everywhere at no cost."""


class InputError(ValueError):
    """What was asked for cannot be done: the message says what was required, what came, and what to do.

    The command line prints it as one sentence and leaves with exit code 2.

    Examples:
        >>> import ttq_plugin
        >>> try:
        ...     ttq_plugin.Budget(share=2)
        ... except ttq_plugin.InputError as error:
        ...     print(str(error).split(":")[0])
        `budget` must lie in (0, 1], got 2
    """


class Diverged(RuntimeError):
    """A training left the numbers (NaN or infinite loss): the trial failed, the search goes on."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a sentence.

    Args:
        error: Any error.

    Returns:
        The line without a full stop, or the error's name where it says nothing.
    """
    said = str(error).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__
