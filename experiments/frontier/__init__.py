"""Steps against final loss at an equal budget of examples."""
