"""A run: its folder, checkpoints and signals, and the events that report its progress."""
