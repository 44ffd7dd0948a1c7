"""Benchmarks: zmend beside a peer or a physical limit, in one run. `make bench` runs all and writes benchmarks/results."""
