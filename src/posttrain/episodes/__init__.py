"""The tool loop: model, calls, results, answer."""
