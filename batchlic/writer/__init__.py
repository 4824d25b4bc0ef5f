"""What a run leaves behind: results, audit, rejects, summary."""
