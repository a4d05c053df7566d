"""The engine of a training: Fabric, resumable steps, checkpoints, stored arrays, logs.

May use: nets, data, recipes and below. `run.py` alone imports Fabric; nothing here knows a method.
"""
