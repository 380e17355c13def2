"""Emit: write a program in a runtime's own format."""
