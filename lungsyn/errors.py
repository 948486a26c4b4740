"""The one error a user can cause: it names the thing, what is wrong with it, and the way out."""


class InputError(ValueError):
    """Bad input from outside (a file, a config value, a case). The command line prints it without a traceback.

    The message may reach the report, so it names no file of the raw data: ``detail`` does, for local eyes only.
    """

    def __init__(self, message: str, detail: str = ""):
        super().__init__(message)
        self.detail = detail
