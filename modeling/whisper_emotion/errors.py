"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """Something that the user can mend: a wrong path, option, file or value.

    The message is one line that names the file or option, what is wrong, and what would be right. Scripts print it
    on stderr without a traceback and exit with 2; every other exception is a defect and keeps its traceback.
    """
