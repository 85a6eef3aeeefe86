"""Check that an artefact is right, and measure how fast it is."""
