"""The command line: every command parses, calls one function and renders its result."""
