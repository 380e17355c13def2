"""The parts of ``scripts/runtimes.py``: what each runtime makes of the same artifacts."""
