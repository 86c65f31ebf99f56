"""Flat programs: what a jaxpr is turned into, evaluated, pruned and printed."""
