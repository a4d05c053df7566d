"""Networks and what trains them: backbones, heads, pooling, schedules, optimisers, weight files.

May use: types, rle, files, config. Knows no method and no data set.
"""
