"""The page that shows the figures of an evaluation."""
