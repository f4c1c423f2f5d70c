"""One frozen dataclass per command, translated to options, files and records, and back."""
