"""Fusions: several frozen encoders' features of one image become one embedding z_f.

One file each, registered by the word that `fusion.kind` takes: a new one is a file here with a subclass of `Fusion`
under `@FUSIONS.register("its-name")`.
"""
