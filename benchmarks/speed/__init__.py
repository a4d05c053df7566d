"""How fast and how large: one JSON file for each method, printed beside the results."""
