"""From a trained model to predictions: load it, read images one by one, cut large ones into tiles.

May use: methods and below.
"""
