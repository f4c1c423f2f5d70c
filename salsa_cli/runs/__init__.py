"""A run: its folder, its checkpoints, its signals, and the events that tell of it."""
