"""The structure of the code, measured: `python -m benchmarks.house` writes results/house.json and docs/images/architecture.svg.

`layers` states the order of the packages, `imports` checks it; the tests use both. `duplicates`, `code` and `walks` measure,
`figure` draws, `table` prints.
"""
