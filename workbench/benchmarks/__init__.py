"""Measurements: every figure stands beside a baseline that was taken in the same run, in turns with it.

Why ratios: machines differ and are noisy; how much the platform adds to a bare process or a bare stream does not.
"""
