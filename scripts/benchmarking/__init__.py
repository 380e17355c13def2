"""What ``scripts/benchmark.py`` is made of: it measures in processes of their own, and reports on records."""
