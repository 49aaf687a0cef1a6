"""Tests of one cluster, which stands until the last of them has run."""
