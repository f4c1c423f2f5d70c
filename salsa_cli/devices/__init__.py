"""Where tensors are computed: devices, processes and what they share. Never algorithms."""
