"""Models of transformers: loaded, computed with, trained, saved."""
