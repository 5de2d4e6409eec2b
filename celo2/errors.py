"""The one exception that means: the caller's input is at fault, and here is the mend."""


class InputError(ValueError):
    """Bad input, reported in one sentence that names the value and the remedy.

    The command line prints it and exits with 2.
    """
