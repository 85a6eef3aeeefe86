"""From a quantised graph to code for one target, through IREE."""
