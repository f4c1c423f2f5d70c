"""What is asked, and which answers there are already: prompts, benchmarks, answer files."""
