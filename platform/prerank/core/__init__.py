"""What every room stands on: errors, home, ids, times, the manifest, settings and Ray tasks."""
