"""Grids, displacement fields, warping, and the field files of other tools."""
