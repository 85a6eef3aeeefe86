"""hwc: compile a PyTorch model once and ship it, verified and profiled, to every chip in a mixed fleet."""

__version__ = "0.1.0"
