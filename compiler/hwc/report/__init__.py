"""One self-contained HTML page about the bundles of a store: what they are, how good, how fast, at what cost."""
