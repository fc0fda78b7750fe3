"""corrField: sparse keypoints, a discrete search over their displacements, and a smooth field through the results."""
