"""The layouts in which data sets come, one file each.

A module has `matches`, `splits` and `read` where its layout needs them, and writes it where that makes sense.
"""
