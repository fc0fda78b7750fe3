"""Registration of one pair by optimisation: an affine map, then velocity fields, under any similarity of two contrasts.

The similarity is a plug-in (:mod:`modalign.instance.contract`); everything else (pyramid, transformation, smoothness,
optimiser) is the same for all, so that a comparison of similarities compares nothing else.
"""
