"""Rewrites of imported MLIR, one a file."""
