"""Procedural anatomy with known truth, written in the layouts in which the data sets are published."""
