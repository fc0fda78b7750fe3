"""Errors that are meant for the user."""


class ModalignError(Exception):
    """Something that the user can mend: the message names the file or value, and says what to write instead.

    The command line prints the message alone; any other exception is a defect and shows its traceback.
    """


class DataError(ModalignError):
    """A data set, scan or case that can't be used as it is."""


class ConfigError(ModalignError):
    """A configuration that asks for something that doesn't exist or can't be."""


class WriteError(ModalignError):
    """A result can't be written: no space, no permission. The job stops; no method is to blame."""


class StoreError(DataError):
    """A prepared case can't be read. The job stops; no method is to blame."""
