"""Prompts, benchmarks, and files of existing answers."""
