"""Generation: sample token ids from a policy, one module per generator."""
