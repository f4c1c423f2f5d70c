"""One frozen dataclass a command, and its way to the command line and to files."""
