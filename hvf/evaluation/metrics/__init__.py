"""Metrics, one file each: label, direction, the network whose features are compared, and the comparison.

A new metric is a file here that registers a metric of `hvf.evaluation.metrics.base` under
`METRICS.register("its-name")` and, if its network is new, that under `NETWORKS.register("its-name")`. The command line
reads labels before torch is imported, so a metric's file imports heavy libraries inside its functions.
"""
