"""Measurements, outside the test run; `README.md` says what each one found."""
