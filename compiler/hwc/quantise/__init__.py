"""From float weights to canonical codes, and from codes to the bytes a target asks for."""
