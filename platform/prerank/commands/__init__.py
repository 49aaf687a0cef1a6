"""What each verb of `prerank` does: options in, a stage run, a summary out.

Heavy libraries are imported where they are used: `prerank --help` must not wait for them.
"""
