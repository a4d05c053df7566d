"""Trained models in other libraries' formats.

May use: methods, nets and below.
"""
