"""RLHF with PPO in which the reference model is a first-class argument."""
