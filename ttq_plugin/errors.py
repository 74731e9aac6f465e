"""The errors of the project's own making, importable from everywhere at no cost."""


class InputError(ValueError):
    """What was asked for cannot be done: the message says what was required, what came, and what to do.

    The command line prints it as one sentence and leaves with exit code 2.
    """


class Diverged(RuntimeError):
    """A training left the numbers (NaN or infinite loss): the trial failed, the search goes on."""
