"""How alike two images of different modalities are: one measure per file, written as losses to minimise.

Each takes ``(fixed, warped)`` of shape (B, 1, *S) with two or three spatial axes, and an optional `mask` (B, 1, *S) of
weights on the fixed grid, and returns a scalar that is lowest where the images agree.
"""
