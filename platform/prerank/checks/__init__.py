"""Is a later log still what the model was trained on, and is the log itself in order?"""
