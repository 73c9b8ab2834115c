"""The one exception for what a user can mend."""


class UserError(Exception):
    """Bad input: the message names the file (and tensor or key) and the remedy, on one line.

    The command line prints it without a traceback and exits with status 2.
    """
