"""Network architectures, without training code."""
