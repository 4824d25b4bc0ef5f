"""Read-only web pages about runs: the list, one run at work or ended, one device, and downloads."""
