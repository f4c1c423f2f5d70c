"""Tests of salsa; `README.md` says where each module is tested."""
