"""How a run is carried out: recipe, plan, engine, ledger, storage, progress, command line. Knows no text."""
