"""DINA (arXiv 2605.04309): population responses and images aligned at an intermediate feature map.

Owner's note. A method beside `hvf.alignment`, whose training set, optimiser and choice of the epoch it shares:
`towers` holds the two networks, `fitting` trains them, `feature_maps` analyses what their maps have in common. Nothing
below `hvf.experiments` imports it; it can go, with `hvf/experiments/population.py` and `brain_training/population.py`,
once a better account of population responses replaces it.
"""
