"""Averaging models: what goes into the soup, and how it streams from disk to disk."""
