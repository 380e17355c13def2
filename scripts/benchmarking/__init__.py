"""What ``scripts/benchmark.py`` is made of: it measures in processes of their own, keeps records, and reports on them."""
