"""The project's own exceptions, which can be imported everywhere at no cost."""


class InputError(ValueError):
    """A request that cannot be carried out; the message says what was required, what was given, and what to do.

    The command line prints it as one sentence and exits with code 2.

    Examples:
        >>> import ttq_plugin
        >>> try:
        ...     ttq_plugin.Budget(share=2)
        ... except ttq_plugin.InputError as error:
        ...     print(str(error).split(":")[0])
        `budget` must lie in (0, 1], got 2
    """


class Diverged(RuntimeError):
    """A training diverged (NaN or infinite loss): the trial failed, and the search continues."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a sentence.

    Args:
        error: Any error.

    Returns:
        The line without a full stop, or the error's name if its message is empty.
    """
    said = str(error).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__
