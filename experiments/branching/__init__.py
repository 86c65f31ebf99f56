"""The critical batch size, measured by branching off a run."""
