"""The report of a run, as one HTML file: its data, its plots and its page."""
