"""Measurements of speed: each figure is taken together with a baseline, in the same run and alternating with it.

The ratios are what counts: machines differ and are noisy, but how much the platform adds to a bare process or a bare
stream is much the same everywhere.
"""
