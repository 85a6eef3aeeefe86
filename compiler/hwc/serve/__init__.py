"""From bundles to those who serve them: exporters to real servers, and the reference router."""
