"""Everything that is measured beside InteractRank."""
