"""Experiments with adaopt: absl scripts, one config file each."""
