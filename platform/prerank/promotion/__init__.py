"""Which version becomes live: the gate, promotion, rollback, and the card of a version."""
