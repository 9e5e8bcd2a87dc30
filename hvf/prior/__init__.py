"""The Fusion Prior: image features to pictures through a frozen SDXL UNet."""
