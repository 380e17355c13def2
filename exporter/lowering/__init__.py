"""Lowering: how each runtime likes the same mathematics spelled."""
