"""Task functions: each opens a task's files, hands them to a stage, and returns the report for the ledger."""
