"""The one base of every failure that the workbench tells its users about."""


class WorkbenchError(Exception):
    """A failure with a sentence for people: what was wrong, and what to do. The command line prints it and exits."""
