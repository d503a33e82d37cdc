"""What every stage stands on: processes, precision, cache, files, progress, trackers."""
