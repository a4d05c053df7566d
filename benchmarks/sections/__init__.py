"""The parts of docs/results.md: each makes blocks of Markdown of the records of finished cells."""
