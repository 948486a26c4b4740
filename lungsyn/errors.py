"""The one error a user can cause: it names the thing, what is wrong with it, and the way out."""


class InputError(ValueError):
    """Bad input from outside (a file, a config value, a case). The command line prints it without a traceback."""
