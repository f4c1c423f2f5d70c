"""RLHF with PPO in which the reference model is a first-class argument."""

VERSION = "0.2.0"
