"""The one exception that means "the input is at fault, not the program"."""


class InputError(ValueError):
    """Bad input. The message is one sentence: what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2. What other libraries say inside it may have
    line breaks; they become spaces.
    """

    def __init__(self, message: str = ""):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
