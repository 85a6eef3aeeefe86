"""The ordered list of stages, the plan, the one loop that runs it, and the store of outputs."""
