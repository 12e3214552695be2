"""The engine: carries out the stages of a plan, on Ray or in one process, with attempts, logs and books."""
