"""The files of a run: results, audit, outcomes, summary and exports."""
