"""The one exception that means: the caller's input is at fault, and here is the mend."""


class InputError(ValueError):
    """Bad input. Its message is one sentence that names the value and the mend; the CLI prints it and exits with 2."""
