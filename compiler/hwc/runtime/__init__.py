"""Load an artefact on its real runtime and call it."""
