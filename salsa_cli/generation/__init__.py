"""Generation: prompts and a policy to token ids, each way of it a room of its own."""
