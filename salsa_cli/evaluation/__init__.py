"""Evaluation of models: questions, answers, judges, verdicts, results and the report."""
