"""Measurements: `make bench` trains and scores what is declared in `claims`, `make results` turns the JSON files into a page."""
