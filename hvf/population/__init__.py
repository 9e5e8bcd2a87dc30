"""DINA (arXiv 2605.04309): population responses and images aligned at an intermediate feature map."""
