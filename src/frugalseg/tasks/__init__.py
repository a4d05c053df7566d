"""One file for each kind of output (classes, objects, few-shot, foreground): how it is scored and shown.

May use: inference, export, methods and below.
"""
