"""What a run's folder holds beside its tokens and its ledger: manifest, summary, card, what it was made by."""
