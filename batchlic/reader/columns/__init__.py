"""Which column holds what: headers, known exports, contents, folders."""
